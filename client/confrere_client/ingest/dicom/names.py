"""What a header knows of a person, to be searched for; and the little that may leave it, cleaned.

What identifies follows the basic profile of DICOM PS3.15 Annex E
(https://dicom.nema.org/medical/dicom/current/output/chtml/part15/chapter_E.html).
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from confrere_client.ingest.dicom.header import transfer_syntax
from confrere_client.ingest.dicom.values import decode, kind_of, number, tag_of, text, texts

VRS = frozenset({"PN", "DA", "DT", "UI", "AE"})
"""Whatever is of these kinds identifies: names, dates, instances, machines."""

KEYWORDS = frozenset({
    "AccessionNumber", "AdditionalPatientHistory", "AdmissionID", "CountryOfResidence",
    "CurrentPatientLocation", "DetectorID", "DeviceSerialNumber", "EthnicGroup",
    "FillerOrderNumberImagingServiceRequest", "GantryID", "ImageComments", "InstitutionAddress",
    "InstitutionName", "InstitutionalDepartmentName", "InsurancePlanIdentification",
    "IssuerOfPatientID", "MedicalRecordLocator", "MilitaryRank", "Occupation", "OtherPatientIDs",
    "PatientAddress", "PatientComments", "PatientID", "PatientInstitutionResidence", "PatientState",
    "PatientTelephoneNumbers", "PerformedLocation", "PerformedProcedureStepID",
    "PerformedStationName", "PlacerOrderNumberImagingServiceRequest", "PlateID",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "RegionOfResidence",
    "RequestAttributesSequence", "RequestedProcedureComments", "RequestedProcedureID",
    "RequestingService", "ScheduledProcedureStepID", "ScheduledStationName", "SpecialNeeds",
    "StationName", "StudyComments", "StudyID", "VisitComments",
})  # fmt: skip
"""What else identifies, though its kind of value does not say so."""

WELL_KNOWN = "1.2.840.10008."
"""UIDs that the standard itself gives: classes and transfer syntaxes."""

DEPTH = 8
SHORTEST = 3
MOST_ITEMS = 16
"""Frames of one object repeat their identifiers: the first of them and the last are looked at."""

VENDORS = (
    "3dhistech", "agfa", "aperio", "bruker", "canon", "carestream", "elscint", "esaote", "fuji",
    "ge ", "general electric", "hamamatsu", "hitachi", "hologic", "kodak", "konica", "leica",
    "lodox", "lorad", "marconi", "mindray", "mirax", "philips", "picker", "planmed", "roche",
    "sakura", "samsung", "sectra", "shimadzu", "siemens", "sonoscape", "swissray", "toshiba",
    "trestle", "united imaging", "varian", "ventana", "vidar", "zeiss", "ziehm",
)  # fmt: skip
"""Makers as they are reported; another becomes 'other', since the field is free text."""

KNOWN = frozenset({
    "bdus", "bi", "bmus", "cr", "ct", "dg", "dms", "dx", "es", "gm", "hc", "io", "ivoct", "ivus",
    "ls", "mg", "mr", "nm", "oam", "oct", "op", "opm", "opt", "ot", "pt", "px", "rf", "rg",
    "rtimage", "sc", "sm", "tg", "us", "xa", "xc",
})  # fmt: skip
"""Modalities of images."""

BODY_PARTS = frozenset({
    "abdomen", "abdomenpelvis", "adrenal", "ankle", "aorta", "arm", "axilla", "back", "bladder",
    "bone", "brain", "breast", "bronchus", "calcaneus", "calf", "carotid", "cerebellum", "chest",
    "chestabdomen", "chestabdpelvis", "clavicle", "coccyx", "colon", "cspine", "ctspine", "ear",
    "elbow", "esophagus", "extremity", "eye", "face", "femur", "finger", "foot", "gallbladder",
    "hand", "head", "headneck", "heart", "hip", "humerus", "jaw", "kidney", "knee", "leg", "liver",
    "lspine", "lsspine", "lung", "maxilla", "mediastinum", "mouth", "neck", "neckchest",
    "neckchestabdomen", "neckchestabdpelv", "nose", "orbit", "ovary", "pancreas", "parotid",
    "patella", "pelvis", "penis", "pharynx", "prostate", "radius", "rectum", "rib", "scalp",
    "scapula", "sclera", "scrotum", "sella", "shoulder", "skin", "skull", "spine", "spleen",
    "sspine", "sternum", "stomach", "testis", "thigh", "thorax", "thumb", "thymus", "thyroid",
    "tlspine", "toe", "tongue", "trachea", "tspine", "uterus", "vagina", "wholebody", "wrist",
})  # fmt: skip
"""Defined terms of PS3.16 Annex L, and some that are common; another becomes 'other'."""

PLAIN = re.compile(r"[^A-Za-z0-9 ._+/-]+")


def identifiers(ds: Any) -> tuple[str, ...]:
    """Return every identifier of the header, nested ones too, each once.

    Left out is what has under 3 letters or only one of them, and the UIDs of the standard.
    """
    found = dict.fromkeys(part for value in _values(ds, DEPTH) for part in _parts(value))
    return tuple(found)


def _values(ds: Any, depth: int) -> Iterator[str]:
    """Yield what identifies, decoded as well as it can be; a value on disk stays there."""
    from pydicom.sequence import Sequence

    for tag in list(ds.keys()):
        vr, raw = _raw(ds, tag)
        if vr == "SQ" and depth and (nested := _sequence(ds, tag, Sequence)):
            for item in [*nested[:MOST_ITEMS], *nested[-1:]]:
                yield from _values(item, depth - 1)
        elif raw is not None:
            yield raw


def _sequence(ds: Any, tag: Any, kind: type) -> Any:
    try:
        found = ds[tag].value
    except Exception:  # what cannot be parsed is found by no reader of ours either
        return None
    return found if isinstance(found, kind) else None


def _raw(ds: Any, tag: Any) -> tuple[str, str | None]:
    """Return kind and text of an element without converting it: conversion is slow and may fail."""
    item = ds.get_item(tag, keep_deferred=True)
    vr, value = item.VR, item.value
    if vr in (None, "UN"):
        vr = kind_of(tag)
    if vr not in VRS and tag not in _tags():
        return vr, None
    if isinstance(value, bytes):
        return vr, decode(value) if len(value) <= 4096 else None
    return vr, None if value is None or vr == "SQ" else "\\".join(_flat(value))


@cache
def _tags() -> frozenset[int]:
    """Return the tags of `KEYWORDS`."""
    return frozenset(int(tag_of(keyword)) for keyword in KEYWORDS)


def _flat(value: Any) -> list[str]:
    many = hasattr(value, "__iter__") and not isinstance(value, str)
    return [str(part) for part in value] if many else [str(value)]


def _parts(value: str) -> Iterator[str]:
    """Yield a value as it stands, its several values, and the parts of a name (MEIER^ANNA)."""
    for one in value.split("\\"):
        whole = one.strip(" \0")
        pieces = (whole, *re.split(r"[\^=]", whole)) if "^" in whole else (whole,)
        yield from (piece.strip() for piece in pieces if _is_telling(piece.strip()))


def _is_telling(word: str) -> bool:
    """Say whether a word can point at somebody: not ^^^^, 0000, XXX or a UID of the standard."""
    letters = set(filter(str.isalnum, word.lower()))
    return len(word) >= SHORTEST and len(letters) > 1 and not word.startswith(WELL_KNOWN)


def technical(ds: Any, names: tuple[str, ...]) -> Mapping[str, str | float]:
    """Return the allow-listed tags; a free text that holds one of *names* is left out."""
    words: dict[str, str] = {
        "modality": modality(text(ds, "Modality")),
        "vendor": vendor(text(ds, "Manufacturer")),
        "model": plain(text(ds, "ManufacturerModelName"), names),
        "kernel": plain(next(iter(texts(ds, "ConvolutionKernel")), ""), names),
        "body_part": body_part(text(ds, "BodyPartExamined")),
        "photometric": plain(text(ds, "PhotometricInterpretation"), names).lower(),
        "view": plain(text(ds, "ViewPosition"), names).lower(),
        "laterality": _laterality(ds),
        "unit": plain(text(ds, "Units") or text(ds, "RescaleType"), names).lower(),
        "transfer_syntax": syntax if (syntax := transfer_syntax(ds)).startswith(WELL_KNOWN) else "",
    }
    sizes = {
        "slice_thickness_mm": number(ds, "SliceThickness", 0.0),
        "field_strength_t": number(ds, "MagneticFieldStrength", 0.0),
        "kvp": number(ds, "KVP", 0.0),
    }
    known = {key: word for key, word in words.items() if word}
    return {**known, **{key: size for key, size in sizes.items() if size > 0}}


def vendor(value: str) -> str:
    """Return a maker as one of `VENDORS`, else 'other', or '' when none is said."""
    words = " ".join(re.findall(r"[a-z0-9]+", value.lower().replace(".", "")))
    if not words:
        return ""
    found = next((name for name in VENDORS if f" {name}" in f" {words} "), "other")
    return "ge" if found.startswith("ge") else found


def modality(value: str) -> str:
    """Return a modality in lower case, 'ot' for one that is no image's, '' when none is said."""
    word = value.strip().lower()
    return (word if word in KNOWN else "ot") if word else ""


def body_part(value: str) -> str:
    """Return a part of the body as one of `BODY_PARTS`, else 'other', or '' when none is said."""
    word = re.sub(r"[^a-z]+", "", value.lower())
    return (word if word in BODY_PARTS else "other") if word else ""


def plain(value: str, names: tuple[str, ...] = ()) -> str:
    """Return at most 32 plain characters of free text, or '' when an identifier stands in it."""
    word = " ".join(PLAIN.sub(" ", value).split())[:32].strip()
    lowered = word.lower()
    return "" if any(name.lower() in lowered for name in names) else word


def _laterality(ds: Any) -> str:
    side = (text(ds, "ImageLaterality") or text(ds, "Laterality")).upper()
    return side.lower() if side in ("L", "R", "B") else ""
