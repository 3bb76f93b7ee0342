"""DICOM files: single, series, enhanced multi-frame, loops and photographs, in every syntax."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from confrere_client.ingest.boundary import guarded, refuse_short
from confrere_client.ingest.dicom.frames import frames_of, is_localiser, is_mosaic, through
from confrere_client.ingest.dicom.header import (
    Place,
    is_slide,
    looks_like_dicom,
    nbytes,
    parse_header,
    refuse_kind,
    refuse_torn,
)
from confrere_client.ingest.dicom.names import identifiers, modality, technical
from confrere_client.ingest.dicom.native import native
from confrere_client.ingest.dicom.pictures import load_pictures
from confrere_client.ingest.dicom.pixels import stored
from confrere_client.ingest.dicom.series import load_series
from confrere_client.ingest.dicom.values import holds, text, whole
from confrere_client.ingest.reader import Exam, Part, Reader, Skipped

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary capture: a screen, a scanned film, a photograph, whatever its modality says; unless its
frames have places, as in volumes that were written anew."""

STACKED = ("ct", "mr", "pt", "nm", "opt", "oct")
"""Modalities whose files of one series are slices."""

PLACED = (*STACKED, "mg", "xa", "us", "ot")
"""Modalities that are volumes when their frames have places: tomosynthesis, 3-D angiography."""

MOST_FRAMES = 65_536
COMPRESSION = 4_000
"""No codec packs pixels denser than this but for blank ones."""


class Dicom(Reader):
    """It groups slices by series and keeps all else apart; a missing preamble is no fault."""

    def claims(self, head: bytes, file: Path) -> bool:  # noqa: ARG002
        """Say whether a data set stands in *head*, unless it is a slide's."""
        return looks_like_dicom(head) and not is_slide(head)

    def index(self, file: Path) -> Sequence[Part]:
        """Return the one part of a series, or the one picture, that the file is."""
        with guarded("corrupt"):
            ds, place = parse_header(file)
            refuse_kind(ds)
            _refuse_header(ds)
            _refuse_place(ds, file, place)
            if is_mosaic(ds):
                raise Skipped("mosaic of slices", "a volume as one picture: convert it to NIfTI")
            return [_part(ds, file, place)]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield the volumes of a series, or the picture that a file is."""
        if "frames" in parts[0].extra:
            yield from load_series(parts, options)
        else:
            yield from load_pictures(parts[0], options)


def _refuse_header(ds: Any) -> None:
    """Skip what cannot be an image, by what the header says of size and kind."""
    if whole(ds, "Rows") <= 0 or whole(ds, "Columns") <= 0:
        raise Skipped("no pixel data", "the header has no rows or columns")
    if whole(ds, "NumberOfFrames", 1) > MOST_FRAMES:
        raise Skipped("too large", f"over {MOST_FRAMES} frames")
    if whole(ds, "BitsAllocated", 8) not in (1, 8, 16, 32, 64):
        raise Skipped("unknown pixel format", "bits allocated")
    if is_localiser(ds):
        raise Skipped("localiser")


def _refuse_place(ds: Any, file: Path, place: Place | None) -> None:
    """Skip a file that ends before its pixels do."""
    if place is None:
        raise Skipped("no pixel data")
    inflated = not ds.filename  # it stood deflated in the file
    if inflated or place.length < 0:
        refuse_short(file, stored(ds), COMPRESSION)
        if not inflated:
            refuse_torn(file, place)
    elif file.stat().st_size - place.offset < stored(ds):
        raise Skipped("truncated", "its header announces more than the file can hold")


def _part(ds: Any, file: Path, place: Place | None) -> Part:
    names = identifiers(ds)
    kind = "sc" if _is_capture(ds) else modality(text(ds, "Modality"))
    tags = {**technical(ds, names), **({"modality": kind} if kind else {})}
    series, frames = _series(ds, kind), _frames(ds, kind)
    extra: dict[str, Any] = {"tags": tags}
    if frames:
        extra |= {"frames": frames, "native": native(ds, place, kind)}
    return Part(
        file=file,
        group=series if series and frames else _digest("picture", str(file)),
        order=_order(ds, frames),
        patient=text(ds, "PatientID") or text(ds, "PatientName"),
        names=names,
        modality=kind,
        nbytes=nbytes(ds),
        extra=extra,
    )


def _frames(ds: Any, kind: str) -> list[dict[str, Any]]:
    """Return the frames of what may be a volume, or a slice of one; [] for a picture."""
    grey = whole(ds, "SamplesPerPixel", 1) == 1 and "MONO" in text(ds, "PhotometricInterpretation")
    several = whole(ds, "NumberOfFrames", 1) > 1
    if not grey or kind not in PLACED or (several and not _is_placed(ds)):
        return []
    return frames_of(ds) if several or kind in STACKED or _is_placed(ds) else []


def _is_capture(ds: Any) -> bool:
    return f"{text(ds, 'SOPClassUID')}.".startswith(f"{CAPTURE}.") and not _is_placed(ds)


def _is_placed(ds: Any) -> bool:
    """Say whether frames have places of their own, as in enhanced objects."""
    return holds(ds, "PerFrameFunctionalGroupsSequence")


def _series(ds: Any, kind: str) -> str:
    """Return the group of a series' slices; '' when the file stands for itself."""
    series = text(ds, "SeriesInstanceUID")
    if kind not in STACKED or not series:
        return ""
    return _digest(text(ds, "PatientID"), text(ds, "StudyInstanceUID"), series)


def _digest(*parts: str) -> str:
    """Return a name that tells nothing of its parts."""
    return "dicom-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _order(ds: Any, frames: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return where the first frame lies along its normal, then the instance number."""
    axes, position = (frames[0]["axes"], frames[0]["position"]) if frames else (None, None)
    number = float(whole(ds, "InstanceNumber"))
    if axes is None or position is None:
        return (0.0, number)
    along = sum(a * b for a, b in zip(through(axes), position, strict=True))
    return (round(along, 3), number)
