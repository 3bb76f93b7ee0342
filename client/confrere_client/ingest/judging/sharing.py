"""What a coordinator would learn of a data set: what a run that describes it is answered.

Nothing is guessed at: the patients are counted by the function that answers such a run, lent as
``confrere client data add`` lends a data set, under the defaults of run and policy.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from confrere_client.describing import Census, TooFewPatients
from confrere_client.ingest.judging.judge import DUPLICATE
from confrere_client.ingest.keeping.dataset import Dataset
from confrere_client.source import Record, UnreadableImage
from confrere_common.describe import Describe, Measure, measures_of

ASKED = Describe()
"""A run that says nothing of its own: labels by no name, counts of five patients or more."""

COLUMNS = [
    "key", "patient", "patient_known", "split", "label", "dims", "flags", "dtype", "source_shape",
    "spacing_mm", "tag_modality", "tag_vendor", "mean", "std",
]  # fmt: skip
TRAINED_ON = ("train", "")
"""Marks of images that a site lends; where any is marked 'train', those alone."""

Part = dict[str, Any]


def would_tell(dataset: Dataset) -> list[Part]:
    """Return what would leave of the pictures, and of the volumes: a data set lends either.

    Each has *dims*, the exact number of *images*, and as a description tells them *patients*,
    *smallest*, *counts*; the last three are None where too few patients are known. The memory is
    that of some hundred bytes a patient.
    """
    found: dict[tuple[int, str], Census] = {}
    images: Counter[tuple[int, str]] = Counter()
    for row in dataset.rows(COLUMNS):
        if DUPLICATE in row["flags"] or row["split"] not in TRAINED_ON:
            continue
        kind = row["dims"], row["split"]
        images[kind] += 1
        if kind not in found:
            found[kind] = Census(ASKED)
        if row["patient_known"]:
            found[kind].add(_record(row))
    lent = sorted((dims, "train" if (dims, "train") in found else "") for dims, _ in found)
    return [_part(kind[0], images[kind], found[kind]) for kind in dict.fromkeys(lent)]


def readable(part: Part) -> Iterator[tuple[str, list[tuple[str, int]], int]]:
    """Yield the title of each measure, its cells with patients, and how many are not told."""
    for name, measure in measures_of(ASKED).items():
        told = part["counts"][name]
        yield (
            measure.title,
            [(_cell(measure, first, after), count) for first, after, count in told["cells"]],
            told["untold"],
        )


def _record(row: Mapping[str, Any]) -> Record:
    facts = {name: row[name] for name in COLUMNS[COLUMNS.index("dtype") :]}
    return Record(
        name=row["key"], decode=_closed, patient=row["patient"], label=row["label"], facts=facts
    )


def _closed() -> Any:
    raise UnreadableImage("the catalog alone is looked at")


def _part(dims: int, images: int, census: Census) -> Part:
    try:
        told: Part = census.told(ASKED.min_cell).as_dict()
    except TooFewPatients:
        told = {"patients": None, "smallest": ASKED.min_cell, "counts": None}
    return {"dims": dims, "images": images, **told}


def _cell(measure: Measure, first: int, after: int) -> str:
    """Return what a cell is called.

    >>> sides = Measure(title="side", edges=(0, 32, 64))
    >>> _cell(sides, 0, 2), _cell(sides, 2, 3)
    ('0 to 64', '64 or more')
    """
    if measure.names:
        return measure.names[first]
    if after < measure.size:
        return f"{measure.edges[first]:g} to {measure.edges[after]:g}"
    return f"{measure.edges[first]:g} or more"
