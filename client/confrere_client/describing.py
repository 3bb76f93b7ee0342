"""What a site tells of its images where nothing is trained: patients in cells that are never small.

In order: images whose patient is not known take no part; each patient counts once in each measure,
by one image (the first by name) and by the label that most of its images have; small cells are
joined with their neighbours, or withheld; the counts are handed back.

The rules, each for a reason:

- A count holds *smallest* patients or more, or it is not told. Between numbers, neighbouring cells
  are joined by halving, as in ``halving``; cells with names are withheld.
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

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.halving import cells
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


class TooFewPatients(DataError):  # noqa: N818  (the code says it better)
    """Fewer patients are known than a cell may hold, so nothing is told."""

    code = "too-few-patients"


class Census:
    """Where each patient falls in every measure, image by image in the order of their names.

    Some two hundred bytes a patient are kept, and of an image nothing.
    """

    def __init__(self, asked: Describe, modality: str | None = None) -> None:
        self._asked, self._modality = asked, modality
        self._measures = measures_of(asked)
        self._numbers: dict[str, int] = {}
        self._images: list[int] = []
        self._labels: Counter[tuple[int, str]] = Counter()
        self._places = array("h")
        self._looked = bytearray()

    def add(self, record: Record) -> None:
        """Count an image of a known patient; it is opened only where none told what they show."""
        number = self._numbers.setdefault(record.patient, len(self._images))
        if number == len(self._images):
            self._images.append(0)
            self._looked.append(False)
            self._places.extend(self._row({}))
        self._images[number] += 1
        if record.label:
            # Without names all labels are one: which it is need not be known.
            self._labels[number, record.label if self._asked.labels else "labelled"] += 1
        if not self._looked[number] and (kept := record.facts or _opened(record)):
            self._looked[number] = True
            width = len(self._measures)
            self._places[number * width : (number + 1) * width] = self._row(kept)

    def told(self, smallest: int) -> Description:
        """Return what may be told, as ``describe`` does."""
        patients = len(self._images)
        if patients < smallest:
            raise TooFewPatients(
                f"{patients} patients are known, and counts are told of {smallest} or more: "
                "register the images with a patient column, or vouch with "
                "--one-image-per-patient."
            )
        places_PM = np.array(self._places, np.int64).reshape(patients, len(self._measures))
        columns = dict(zip(self._measures, places_PM.T, strict=True))
        images, label = self._measures["images"], self._measures["label"]
        columns["images"] = np.array([_place(images, n) for n in self._images], np.int64)
        known = self._labelled()
        columns["label"] = np.array(
            [_place(label, known.get(number)) for number in range(patients)], np.int64
        )
        counts = {
            name: counted(columns[name], measure, smallest)
            for name, measure in self._measures.items()
        }
        return Description(patients=patients, smallest=smallest, counts=counts)

    def _row(self, kept: Mapping[str, Any]) -> "array[int]":
        """Return the cell of each measure that an image shows, -1 where there is none."""
        values = dict(_look(kept, self._modality))
        return array("h", (_place(one, values.get(name)) for name, one in self._measures.items()))

    def _labelled(self) -> Mapping[int, str]:
        """Return the label that most of a patient's images have, the first by alphabet of equals.

        A name that the run does not ask for is another's.
        """
        most: dict[int, tuple[int, str]] = {}
        for (number, label), count in sorted(self._labels.items()):
            if number not in most or count > most[number][0]:
                most[number] = count, label
        otherwise = OTHER if self._asked.labels else "labelled"
        return {
            number: label if label in self._asked.labels else otherwise
            for number, (_, label) in most.items()
        }


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
    census = Census(asked, modality)
    for record in sorted(records, key=lambda one: one.name):
        if vouched or record.patient_known:
            census.add(record)
    return census.told(max(smallest, asked.min_cell))


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


def _place(measure: Measure, value: float | str | None) -> int:
    if value is None or value == "":
        return -1
    if isinstance(value, str):
        word = ALIKE.get(value, value)
        return measure.names.index(word) if word in measure.names else measure.size - 1
    return int(np.searchsorted(measure.edges, value, side="right")) - 1  # -1 below the first


def _look(kept: Mapping[str, Any], modality: str | None) -> Iterator[tuple[str, float | str]]:
    """Yield what an image shows of which this is *kept*."""
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


def _opened(record: Record) -> dict[str, Any]:
    """Return what an image shows; nothing where it cannot be read, and the patient's next does."""
    try:
        pixels_CZYX = record.decode()
    except UnreadableImage:
        return {}
    white = np.iinfo(pixels_CZYX.dtype).max
    return {
        "dtype": pixels_CZYX.dtype.name,
        "source_shape": pixels_CZYX.shape,
        "mean": float(pixels_CZYX.mean(dtype=np.float64)) / white,
        "std": float(pixels_CZYX.std(dtype=np.float64)) / white,
    }
