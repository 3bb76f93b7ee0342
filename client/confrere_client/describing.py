"""What a site tells of its images where nothing is trained: patients in cells that are never small.

In order: images whose patient is not known take no part; each patient counts once in each measure,
by one image (the first by name) and by the label that most of its images have; small cells are
joined with their neighbours, or withheld; the counts are handed back.

The rules, each for a reason:

- A count holds *smallest* patients or more, or it is not told. Between numbers, neighbouring cells
  are joined by halving, as in ``evaluation.shared``; cells with names are withheld.
- All that is withheld of a measure is one count, together with the patients without a value. Where
  that would itself be small, the smallest of the other counts is withheld with it: since all counts
  add up to the patients, it could else be found as the difference.
- No text leaves: cells have numbers, and their names are those that the run brought.

What this does not do: two measures are not held against each other, so somebody who knows that all
patients of one cell lie in one of another measure learns the difference of the two; and who asks
twice, with a patient more, sees a count change. Only differential privacy bounds that. A site
should approve such a run seldom.

Shapes: P patients, C channels, Z Y X voxels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.shared import cells
from confrere_client.source import Record, UnreadableImage
from confrere_common.describe import (
    OTHER,
    Counts,
    Describe,
    Description,
    Measure,
    measures_of,
)
from confrere_common.errors import DataError
from confrere_common.tally import Cell

KEPT = (
    "dtype", "tag_modality", "source_shape", "spacing_mm", "tag_vendor", "mean", "std", "digest",
)  # fmt: skip
"""What a source may keep of an image, so that it need not be opened; the last is for marks."""

ALIKE = {
    "cxr": "dx", "mri": "mr", "histology": "sm", "dermatology": "xc", "microscopy": "gm",
    "general electric": "ge",
}  # fmt: skip
"""Names that a cell has under another name."""

Values: TypeAlias = Mapping[str, float | str]
"""Measure -> a patient's value; what is not known is absent."""


class TooFewPatients(DataError):  # noqa: N818  (the code says it better)
    """Fewer patients are known than a cell may hold, so nothing is told."""

    code = "too-few-patients"


def describe(
    records: Sequence[Record],
    asked: Describe,
    *,
    smallest: int = 0,
    vouched: bool = False,
    modality: str | None = None,
) -> Description:
    """Return what may be told of the images; *smallest* is the site's own limit beside the run's.

    Guarantee: every count that leaves is of *smallest* patients or more, and so is what is left of
    all patients; no text but the run's own leaves. *vouched*: no two images whose patient is not
    known are of one. *modality* is what images are that do not say it. TooFewPatients where even
    all of them are fewer.
    """
    smallest = max(smallest, asked.min_cell)
    patients = grouped(records, vouched=vouched)
    if len(patients) < smallest:
        raise TooFewPatients(
            f"{len(patients)} patients are known, and counts are told of {smallest} or more: "
            "register the images with a patient column, or vouch with --one-image-per-patient."
        )
    values_P = [_values(its, asked, modality) for its in patients]
    counts = {
        name: counted(_places(name, measure, values_P), measure, smallest)
        for name, measure in measures_of(asked).items()
    }
    return Description(patients=len(patients), smallest=smallest, counts=counts)


def grouped(records: Sequence[Record], *, vouched: bool) -> list[list[Record]]:
    """Return the images of each known patient, both in order of their names."""
    owned: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one.name):
        if vouched or record.patient_known:
            owned[record.patient].append(record)
    return [owned[patient] for patient in sorted(owned)]


def counted(place_P: NDArray[np.int64], measure: Measure, smallest: int) -> Counts:
    """Return patients by cell, -1 for those without a value, so that no count is small."""
    known_P = place_P[place_P >= 0]
    if measure.names:
        told = [(c, c + 1, int(n)) for c, n in enumerate(np.bincount(known_P)) if n >= smallest]
    else:
        told = [
            (first, min(after, measure.size), count)
            for first, after, count in cells(known_P, np.arange(len(known_P)), smallest)
        ]
    return _withheld(told, len(place_P), smallest)


def _withheld(told: list[Cell], patients: int, smallest: int) -> Counts:
    """Withhold the smallest counts until what is left of all patients is none, or not small."""
    untold = patients - sum(count for _, _, count in told)
    while 0 < untold < smallest and told:
        least = min(told, key=lambda cell: cell[2])
        told = [cell for cell in told if cell != least]
        untold += least[2]
    return Counts(cells=tuple(told), untold=untold)


def _places(name: str, measure: Measure, values_P: Sequence[Values]) -> NDArray[np.int64]:
    """Return the cell of each patient's value, -1 where there is none."""
    return np.array([_place(measure, values.get(name)) for values in values_P], np.int64)


def _place(measure: Measure, value: float | str | None) -> int:
    if value is None or value == "":
        return -1
    if isinstance(value, str):
        word = ALIKE.get(value, value)
        return measure.names.index(word) if word in measure.names else measure.size - 1
    return int(np.searchsorted(measure.edges, value, side="right")) - 1  # -1 below the first


def _values(its: Sequence[Record], asked: Describe, modality: str | None) -> Values:
    labels = Counter(record.label for record in its if record.label)
    label = max(sorted(labels), key=lambda one: labels[one]) if labels else ""
    # A name that the run does not ask for is not even looked up.
    known = label if label in asked.labels or not label else _no_name(asked)
    return {"images": len(its), "label": known, **dict(_look(its, modality))}


def _no_name(asked: Describe) -> str:
    return OTHER if asked.labels else "labelled"


def _look(its: Sequence[Record], modality: str | None) -> Iterator[tuple[str, float | str]]:
    """Yield what one image of a patient shows."""
    kept = its[0].facts or _opened(its)
    yield "modality", str(kept.get("tag_modality") or modality or "").lower()
    yield "vendor", str(kept.get("tag_vendor") or "")
    if shape := tuple(kept.get("source_shape") or ()):
        longer = max(shape[-2:])
        yield "longer_px", longer
        yield "shorter_share", min(shape[-2:]) / longer
        yield "slices", shape[-3] if len(shape) > 3 else 1
        yield "channels", "colour" if shape[0] == 3 else "grey"
        yield "bits", "8" if kept["dtype"] == "uint8" else "16"
    spacing = [side for side in kept.get("spacing_mm") or () if side and side > 0]
    if len(spacing) > 1:
        yield "spacing_mm", max(spacing[-2:])
    if len(spacing) > 2:
        yield "slice_spacing_mm", spacing[-3]
    for measure, name in (("mean", "mean"), ("contrast", "std")):
        if kept.get(name) is not None:
            yield measure, kept[name]


def _opened(its: Sequence[Record]) -> dict[str, Any]:
    """Return what the first image that can be read shows; nothing where none can."""
    for record in its:
        try:
            pixels_CZYX = record.decode()
        except UnreadableImage:
            continue
        white = np.iinfo(pixels_CZYX.dtype).max
        return {
            "dtype": pixels_CZYX.dtype.name,
            "source_shape": pixels_CZYX.shape,
            "mean": float(pixels_CZYX.mean(dtype=np.float64)) / white,
            "std": float(pixels_CZYX.std(dtype=np.float64)) / white,
        }
    return {}
