"""Which of its own patients a hospital keeps apart from a fine-tuning, to score the model on.

A patient is told from others by the first of its images' names: who else is there hardly moves who
is held out, and the same run holds out the same patients in every round.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import Catalog, patient_labels
from confrere_client.data.images import Images
from confrere_client.finetune.lesson import marked
from confrere_common.config import Run
from confrere_common.judged import evaluation_of
from confrere_common.model import task_of
from confrere_common.task import TASKS

Rows = NDArray[np.int64]


def held_out(run: Run, images: Images) -> Rows:
    """Return all images of data.test_share of each class's patients; none where none are scored.

    Of two patients of a class or more at least one is held out, and never all of them.
    """
    task = task_of(run)
    if task is None or evaluation_of(run) is None:
        return np.empty(0, np.int64)
    catalog = images.catalog
    known = catalog.select(np.flatnonzero(marked(images, task)))
    if TASKS.member(task.task.name).marks != "label":  # all that have a mask are one class
        alike = np.zeros(len(known.patients), known.labels.dtype)
        known = replace(known, labels=alike, classes=("marked",))
    kept = [*_chosen(known, run.data.test_share, run.data.seed)]
    return np.flatnonzero(np.isin(catalog.patients, kept))


def _chosen(catalog: Catalog, share: float, seed: int) -> Iterator[int]:
    """Yield the patients of each class whose ranks are lowest."""
    patients, labels = patient_labels(catalog)
    ranks = {int(patient): _rank(catalog, patient, seed) for patient in patients}
    for label in np.unique(labels):
        ours = sorted(map(int, patients[labels == label]), key=ranks.__getitem__)
        yield from ours[: min(max(round(len(ours) * share), 1), len(ours) - 1)]


def _rank(catalog: Catalog, patient: int, seed: int) -> str:
    first = min(catalog.names[catalog.patients == patient])
    return hashlib.sha256(f"{seed}\n{first}".encode("utf-8", "surrogatepass")).hexdigest()
