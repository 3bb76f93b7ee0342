"""Which of its own patients a hospital keeps apart from a fine-tuning, to score the model on.

Those who choose the round (validation) are kept apart in the same way, with a note of their own.

A patient is told from others by the first of its images' names: who else is there hardly moves who
is held out. Who is when a run begins is noted in its folder with a fingerprint of the whole data
set, and stays so in every round. Names need not mean the same images in another data set (rows of
an archive move): once another is met, nobody is scored for the rest of the run.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import Catalog, patient_labels
from confrere_client.data.images import Images
from confrere_client.finetune.lesson import marked
from confrere_client.source import Record
from confrere_common.config import Run
from confrere_common.judged import evaluation_of
from confrere_common.model import task_of
from confrere_common.storage import atomic_write
from confrere_common.task import TASKS

Rows = NDArray[np.int64]

NOBODY: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A data set as one round meets it, whatever the policy lets that round use of it."""

    fingerprint: str
    """Changes with any image and with what is known of one."""

    records: Sequence[Record]
    """All that may be learned from: what else is of a patient is found in it."""

    tests: Sequence[Record]
    """What the source marks 'test', or 'val'."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was settled when a run began at the site."""

    marked: bool
    """Whether the source marked who is held out."""

    fingerprint: str
    """Of the data set that was there; '' once another was met."""

    images: frozenset[str]
    """Of all images of the patients who are held out: what their names hash to."""

    def holds(self, seen: Seen) -> bool:
        """Say whether the data set is still the one that the note was made of."""
        return (self.marked, self.fingerprint) == (bool(seen.tests), seen.fingerprint)


def held_out(run: Run, images: Images, share: float | None = None, but: Rows = NOBODY) -> Rows:
    """Return all images of data.test_share of each class's patients; none where none are scored.

    Or of another *share*, and of nobody of whom rows in *but* are. Of two patients of a class or
    more at least one is held out, and never all of them.
    """
    task, share = task_of(run), run.data.test_share if share is None else share
    if task is None or evaluation_of(run) is None or not share:
        return NOBODY
    catalog = images.catalog
    free = ~np.isin(catalog.patients, catalog.patients[but])
    known = catalog.select(np.flatnonzero(marked(images, task) & free))
    if TASKS.member(task.task.name).marks != "label":  # all that have a mask are one class
        alike = np.zeros(len(known.patients), known.labels.dtype)
        known = replace(known, labels=alike, classes=("marked",))
    kept = [*_chosen(known, share, run.data.seed)]
    return np.flatnonzero(np.isin(catalog.patients, kept))


def as_noted(
    run: Run, images: Images, seen: Seen, path: Path, first: Callable[[], Rows]
) -> tuple[Rows, bool]:
    """Return all images of the patients in the note at *path*, and whether anybody may be scored.

    Where there is no note it is made: of who is marked so, else of whose images *first* gives.

    Guarantee: nobody is scored who was not held out when the note was made; nor is anybody from the
    round on that meets another data set than was there then, or a note that cannot be read.
    """
    made = path.exists()
    note = _read(path) if made else _settled(run, images, seen, first)
    sound = note.holds(seen)
    if not made:
        _write(path, note)
    elif note.fingerprint and not sound:
        # It stays so when the former data set comes back: in between, who was noted may not have
        # been known again, and learned from.
        _write(path, replace(note, fingerprint=""))
    hashes = {_digest(run.data.seed, record.name): record.name for record in seen.records}
    noted = [name for digest, name in hashes.items() if digest in note.images]
    theirs = [record.name for record in _owned(seen.records, noted)]
    return np.flatnonzero(np.isin(images.catalog.names, theirs)), sound


def _settled(run: Run, images: Images, seen: Seen, first: Callable[[], Rows]) -> Note:
    """Return the note of a run that begins now."""
    apart = seen.tests or _owned(seen.records, images.catalog.names[first()])
    names = frozenset(_digest(run.data.seed, record.name) for record in apart)
    return Note(marked=bool(seen.tests), fingerprint=seen.fingerprint, images=names)


def _owned(records: Sequence[Record], names: Collection[str]) -> Sequence[Record]:
    """Return all records of the patients who own one of *names*."""
    wanted = set(names)
    owners = {record.patient for record in records if record.name in wanted}
    return [record for record in records if record.patient in owners]


def _write(path: Path, note: Note) -> None:
    plain = {**asdict(note), "images": sorted(note.images)}
    atomic_write(path, json.dumps(plain).encode())


def _read(path: Path) -> Note:
    """Return what is noted; nobody, of no data set, where it cannot be read: no guess."""
    try:
        plain = json.loads(path.read_bytes())
        return Note(
            marked=bool(plain["marked"]),
            fingerprint=str(plain["fingerprint"]),
            images=frozenset(map(str, plain["images"])),
        )
    except (ValueError, TypeError, KeyError):
        return Note(marked=False, fingerprint="", images=frozenset())


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
        int(patient): _digest(seed, first) for patient, first in zip(patients, firsts, strict=True)
    }


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).hexdigest()
