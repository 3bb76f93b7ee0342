"""Which of its own patients a hospital keeps apart from a fine-tuning, to score the model on.

A patient is told from others by the first of its images' names: who else is there hardly moves who
is held out. Who is when a run begins is noted in its folder, and stays so in every round: a patient
who was learned from, since few were there or a policy let nothing leave, is never scored later.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import Catalog, patient_labels
from confrere_client.data.images import Images
from confrere_client.finetune.lesson import marked
from confrere_common.config import Run
from confrere_common.judged import evaluation_of
from confrere_common.model import task_of
from confrere_common.storage import atomic_write
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


def as_noted(run: Run, images: Images, note: Path, first: Callable[[], Rows]) -> Rows:
    """Return all images of the patients in *note*; where there is none, those of *first* go there.

    Guarantee: nobody is held out who was not when the note was made.
    """
    catalog = images.catalog
    ranks = _ranks(catalog, run.data.seed)
    if not note.exists():
        rows = first()
        held = sorted(ranks[int(patient)] for patient in np.unique(catalog.patients[rows]))
        atomic_write(note, json.dumps(held).encode())
        return rows
    known = _noted(note)
    apart = [patient for patient, rank in ranks.items() if rank in known]
    return np.flatnonzero(np.isin(catalog.patients, apart))


def _noted(note: Path) -> Collection[str]:
    """Return who is noted; nobody where that cannot be read: whom it held out is not guessed."""
    try:
        return frozenset(map(str, json.loads(note.read_bytes())))
    except (ValueError, TypeError):
        return frozenset()


def _chosen(catalog: Catalog, share: float, seed: int) -> Iterator[int]:
    """Yield the patients of each class whose ranks are lowest."""
    patients, labels = patient_labels(catalog)
    ranks = _ranks(catalog, seed)
    for label in np.unique(labels):
        ours = sorted(map(int, patients[labels == label]), key=ranks.__getitem__)
        yield from ours[: min(max(round(len(ours) * share), 1), len(ours) - 1)]


def _ranks(catalog: Catalog, seed: int) -> dict[int, str]:
    """Return a number for each patient that nobody else's presence changes."""
    order = np.argsort(catalog.names, kind="stable")
    patients, places = np.unique(catalog.patients[order], return_index=True)
    firsts = catalog.names[order][places]
    return {
        int(patient): _digest(f"{seed}\n{first}")
        for patient, first in zip(patients, firsts, strict=True)
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
