"""Where each frame of a DICOM object lies in the patient and in time, from its header alone.

Classic objects say it once a file, enhanced ones in functional groups, shared or one a frame.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confrere_client.ingest.dicom.values import items, number, numbers, text, texts, whole

Triple = tuple[float, ...]

TIMES = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "EffectiveEchoTime", "EchoTime",
    "InversionTime", "DiffusionBValue", "NominalCardiacTriggerDelayTime", "FlipAngle",
    "AcquisitionNumber", "FrameReferenceTime", "EchoNumbers",
)  # fmt: skip
"""What tells volumes of one series apart, when it differs."""

GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "FrameContentSequence", "MREchoSequence",
    "MRDiffusionSequence", "CardiacSynchronizationSequence",
)  # fmt: skip
"""The functional groups that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of a series; lengths in millimetres, in the patient's system (LPS)."""

    part: int = 0
    """Which of the series' files holds it."""

    index: int = 0
    """Which frame of that file."""

    shape: tuple[int, ...] = (0, 0)
    """Rows and columns."""

    position: Triple | None = None
    """The centre of the first pixel."""

    axes: Triple | None = None
    """The direction along a row, then down a column: six cosines."""

    spacing: Triple | None = None
    """Between rows, then between columns."""

    thickness: float = 0.0
    scale: Triple | None = None
    """Slope and intercept of this frame, where frames differ."""

    time: Triple = ()
    """The values of `TIMES`; NaN-free, a missing one is 0."""

    number: float = 0.0
    """The instance number."""

    key: str = ""
    """A digest of the instance and frame: equal for a copy."""

    localiser: bool = False


def frames_of(ds: Any) -> list[dict[str, Any]]:
    """Return every frame of an object, in plain values that can be stored."""
    count = max(1, whole(ds, "NumberOfFrames", 1))
    shared = _groups(_first(items(ds, "SharedFunctionalGroupsSequence")))
    own = items(ds, "PerFrameFunctionalGroupsSequence")
    if len(own) not in (0, count):
        own = ()
    return [
        vars(_frame(ds, at, count, shared | _groups(own[at]) if own else shared))
        for at in range(count)
    ]


def frame_from(values: Mapping[str, Any], part: int) -> Frame:
    """Return a frame as `frames_of` stored it; *part* says in which file of the series."""
    plain: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
    }
    return Frame(**{**plain, "part": part})


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _groups(item: Any) -> dict[str, Any]:
    """Return the functional groups of *item* that are there, by keyword."""
    if item is None:
        return {}
    found = {name: _first(item.get(name)) for name in GROUPS if name in item}
    return {name: group for name, group in found.items() if group is not None}


def _frame(ds: Any, at: int, count: int, groups: Mapping[str, Any]) -> Frame:
    measures = groups.get("PixelMeasuresSequence", ds)
    transform = groups.get("PixelValueTransformationSequence")
    sop = text(ds, "SOPInstanceUID")
    return Frame(
        index=at,
        shape=(whole(ds, "Rows"), whole(ds, "Columns")),
        position=numbers(groups.get("PlanePositionSequence", ds), "ImagePositionPatient", 3),
        axes=_axes(groups.get("PlaneOrientationSequence", ds)),
        spacing=spacing(measures) or spacing(ds),
        thickness=abs(number(measures, "SliceThickness", 0.0)),
        scale=_scale(transform) if transform is not None else None,
        time=_time([ds, *groups.values()]),
        number=number(ds, "InstanceNumber", 0.0),
        key=hashlib.sha256(f"{sop} {at}/{count}".encode()).hexdigest()[:16] if sop else "",
        localiser=is_localiser(ds),
    )


def _scale(transform: Any) -> Triple:
    return (number(transform, "RescaleSlope", 1.0) or 1.0, number(transform, "RescaleIntercept", 0))


def _axes(group: Any) -> Triple | None:
    """Return six cosines; None when they are no two directions."""
    found = numbers(group, "ImageOrientationPatient", 6)
    if found is None:
        return None
    row, column = found[:3], found[3:]
    lengths = [sum(part * part for part in axis) for axis in (row, column)]
    across = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    return found if all(0.9 < length < 1.1 for length in lengths) and across < 0.1 else None


def through(axes: Triple) -> Triple:
    """Return the direction through a slice, of length 1; from feet to head for axial ones."""
    a, b, c, d, e, f = axes
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = (x * x + y * y + z * z) ** 0.5
    return x / length, y / length, z / length


def spacing(group: Any) -> Triple | None:
    """Return millimetres between rows and columns, in the patient or else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = numbers(group, keyword, 2)
        if found and all(1e-4 < step < 1e3 for step in found):
            return found
    return None


def _time(places: list[Any]) -> Triple:
    return tuple(
        next((found for place in places if (found := number(place, name, 0.0))), 0.0)
        for name in TIMES
    )


def is_localiser(ds: Any) -> bool:
    """Say whether the object is a scout on which the true series was planned."""
    return bool(_kinds(ds) & {"LOCALIZER", "SCOUT", "SURVEY"})


def is_mosaic(ds: Any) -> bool:
    """Say whether a picture is the slices of an MR volume side by side, as Siemens writes EPI."""
    return "MOSAIC" in _kinds(ds) and text(ds, "Modality") == "MR"


def _kinds(ds: Any) -> set[str]:
    return {kind.upper() for kind in texts(ds, "ImageType")}
