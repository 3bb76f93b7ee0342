"""What a site learns from: its marked images, as the run's classes call them, and how often each.

Shapes: N images of the lesson, K classes, B images of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.data.catalog import Catalog, patient_labels
from confrere_client.data.images import Images
from confrere_client.data.subset import Subset
from confrere_client.facts import Pixels
from confrere_client.finetune.lacking import left_out
from confrere_common.config import Run
from confrere_common.errors import DataError
from confrere_common.finetune import Finetune
from confrere_common.model import task_of
from confrere_common.task import TASKS

Rows = NDArray[np.int64]

BETWEEN, NOTHING = "|", "none"
"""What stands between findings in a label, and what says that there is none."""

ROOTS: Mapping[str, float] = {"sqrt": 0.5, "balanced": 1.0}
"""Sampling -> by which power of a class's count its images become rarer."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Images of a site with what a task must know of them."""

    images: Images
    rows: Rows
    finetune: Finetune

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.rows)

    def batch(self, positions: NDArray[np.int64]) -> Tensor:
        """Return stored pixels, uint8 or uint16, shape BC[Z]YX."""
        return self.images.batch(self.rows[positions])

    def cut(self, positions: NDArray[np.int64], generator: torch.Generator) -> "Lesson":
        """Return it as one step sees *positions*: see ``Images.cut``."""
        marked = TASKS.member(self.finetune.task.name).marks == "mask"
        part = self.images.cut(self.rows[positions], generator, marked=marked)
        return self if part is self.images else replace(self, images=part)

    def known(self, kind: str, positions: NDArray[np.int64]) -> Tensor:
        """Return what is known of images, (B, ...); classes are numbered as the run names them."""
        match kind:
            case "label":
                return torch.from_numpy(self.labels[positions])
            case "findings":
                return torch.from_numpy(self.findings[positions])
            case "prior":
                return torch.from_numpy(self.prior).expand(len(positions), -1)
        if kind == "boxes":
            return torch.from_numpy(self._renamed(self.images.known(kind, self.rows[positions])))
        found = self.images.known(kind, self.rows[positions])
        if kind == "mask":
            _must_reach(int(found.max()), self.finetune)
        return found

    def _renamed(self, boxes_BM: Tensor) -> NDArray[np.float32]:
        """Return boxes whose last number is the run's class."""
        here = self.images.boxes.names if self.images.boxes is not None else ()
        found = {name: number for number, name in enumerate(self.finetune.classes or ())}
        _must_name(here, found)
        table = np.array([*(found[name] for name in here), np.nan], np.float32)
        boxes: NDArray[np.float32] = boxes_BM.numpy().copy()
        boxes[..., -1] = table[np.nan_to_num(boxes[..., -1], nan=-1).astype(np.int64)]
        return boxes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return each image's class among the run's; -1 where unknown."""
        catalog = self.images.catalog
        return numbers(catalog, self.finetune.classes or ())[catalog.labels[self.rows]]

    @cached_property
    def findings(self) -> NDArray[np.float32]:
        """Return for each image and finding 1 or 0; NaN where nothing is known."""
        catalog = self.images.catalog
        return findings(catalog, self.finetune.classes or ())[catalog.labels[self.rows]]

    @cached_property
    def holds(self) -> NDArray[np.bool_]:
        """Say which images have which class, finding or structure, or a box of it, (N, K)."""
        kinds = np.arange(len(self.finetune.classes or ()))
        match TASKS.member(self.finetune.task.name).marks:
            case "mask":
                return self._outlined(len(kinds))
            case "boxes":
                boxes_NQM = self.known("boxes", np.arange(len(self))).numpy()
                return np.asarray((boxes_NQM[..., -1:] == kinds).any(axis=1))
        if self._many:
            return np.asarray(self.findings == 1)
        return np.asarray(self.labels[:, None] == kinds)

    def _outlined(self, named: int) -> NDArray[np.bool_]:
        found = np.zeros((len(self), named), np.bool_)
        if self.images.masks is not None:
            held_NC = self.images.masks.holds[self.rows]
            _must_reach(int(np.flatnonzero(held_NC.any(axis=0)).max(initial=-1)) + 1, self.finetune)
            found[:, : held_NC.shape[1]] = held_NC[:, :named]
        return found

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Return how many images of the lesson have each class, each finding or each structure."""
        return np.asarray(self.holds.sum(axis=0), np.int64)

    @cached_property
    def prior(self) -> NDArray[np.float32]:
        """Return the logarithm of each class's share; minus infinity for what is to be left out."""
        out_K = left_out(self.finetune, self.counts)
        counts_K = np.where(out_K, 0, np.maximum(self.counts, 1))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(counts_K / max(counts_K.sum(), 1)), np.float32)

    @cached_property
    def chances(self) -> NDArray[np.float64] | None:
        """Return how likely each image is to be drawn; None where all are alike."""
        power = ROOTS.get(self.finetune.sampling)
        if power is None or self._many or not self.counts.any():
            return None
        weights_N = np.where(
            self.labels >= 0, np.maximum(self.counts, 1)[self.labels] ** -power, 0.0
        )
        return np.asarray(weights_N / weights_N.sum())

    @property
    def _many(self) -> bool:
        return self.finetune.task.knobs.get("kind") == "multilabel"


def lesson_of(run: Run, images: Images, rows: Rows) -> Pixels:
    """Return what a site trains on: a lesson where the run fine-tunes, else plain images."""
    finetune = task_of(run)
    if finetune is None:
        return Subset(images, rows)
    return Lesson(images=images, rows=rows, finetune=finetune)


class NoLabels(DataError):  # noqa: N818  (the code says it better)
    """A site has nothing that a task could be learned from."""

    code = "no-labels"


class OtherClasses(DataError):  # noqa: N818  (the code says it better)
    """A site's labels have classes that the run does not name."""

    code = "other-classes"


def site_lesson(run: Run, images: Images, but: Rows | None = None) -> tuple[Pixels, Rows]:
    """Return what a hospital trains on of its own images, and which rows these are.

    Rows of *but* are left out where the run fine-tunes. NoLabels where a task finds nothing marked.
    """
    finetune, rows = task_of(run), np.arange(len(images))
    if finetune is None:
        return images, rows
    if but is not None:
        rows = np.setdiff1d(rows, but)
    rows = taught(images, rows, finetune, run.data.seed)
    if not len(rows):
        raise NoLabels(f"no image here is marked for the task '{finetune.task.name}'.")
    must_be_known(images, finetune)
    return Lesson(images=images, rows=rows, finetune=finetune), rows


def taught(
    images: Images, rows: Rows, finetune: Finetune, seed: int, *, judging: bool = False
) -> Rows:
    """Return which of *rows* a run may learn from: marked ones, and of these the run's share.

    Where a task names what is normal, that alone teaches; all classes serve for *judging*.

    Shares are of each class's patients, at least one; a smaller share is always part of a larger.
    """
    catalog, known = images.catalog, rows[marked(images, finetune)[rows]]
    normal = finetune.task.knobs.get("normal")
    if normal in (*catalog.classes, *(finetune.classes or ())) and not judging:
        # A site may have no image of it: then nothing teaches, and nothing else passes for normal.
        known = known[np.array(catalog.classes, np.str_)[catalog.labels[known]] == normal]
    if finetune.labels == 1.0 or not len(known):
        return known
    patients, labels = patient_labels(catalog.select(known))
    mixed = np.random.default_rng([seed, 2]).permutation(len(patients))
    kept = [
        patients[ours[: _wanted(finetune.labels, len(ours))]]
        for label in np.unique(labels)
        if len(ours := mixed[labels[mixed] == label])
    ]
    return known[np.isin(catalog.patients[known], np.concatenate(kept))]


def _wanted(labels: float | str, there: int) -> int:
    if isinstance(labels, str):
        return int(labels.split(" ", 1)[0])
    return int(np.ceil(labels * there - 1e-9))


def must_be_known(images: Images, finetune: Finetune) -> None:
    """Raise OtherClasses where an image has a class that the run does not name.

    All images are looked at, so that no round meets one later.
    """
    classes = finetune.classes or ()
    match TASKS.member(finetune.task.name).marks:
        case "mask" if images.masks is not None:
            _must_reach(int(images.masks.told["highest"]), finetune)
        case "boxes" if images.boxes is not None:
            _must_name(images.boxes.names, {name: n for n, name in enumerate(classes)})
        case "label" if finetune.task.knobs.get("kind") == "multilabel":
            findings(images.catalog, classes)
        case "label" if classes:
            numbers(images.catalog, classes)


def marked(images: Images, finetune: Finetune) -> NDArray[np.bool_]:
    """Say of which images the task's mark is known."""
    return images.has(TASKS.member(finetune.task.name).marks)


def classes_in(images: Images, finetune: Finetune) -> tuple[str, ...]:
    """Return the classes of images or voxels, or the findings that labels name."""
    catalog = images.catalog
    if TASKS.member(finetune.task.name).marks == "mask":
        highest = images.masks.told["highest"] if images.masks is not None else 0
        return tuple(map(str, range(1, max(1, highest) + 1)))
    if TASKS.member(finetune.task.name).marks == "boxes":
        return images.boxes.names if images.boxes is not None else ()
    if finetune.task.knobs.get("kind") != "multilabel":
        return catalog.classes
    return tuple(sorted({one for name in catalog.classes for one in parts(name)}))


def parts(label: str) -> Sequence[str]:
    """Return the findings that a label names.

    >>> parts("oedema|effusion")
    ['oedema', 'effusion']
    """
    names = [part.strip() for part in label.split(BETWEEN)]
    return [name for name in names if name and name.lower() != NOTHING]


def numbers(catalog: Catalog, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the run's number of each class of a catalog, and last -1, for what has no label."""
    found = {name: number for number, name in enumerate(classes)}
    _must_name(catalog.classes, found)
    return np.array([*(found[name] for name in catalog.classes), -1], np.int64)


def findings(catalog: Catalog, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return a row of 0 and 1 for each class of a catalog, and last NaN, for what has no label."""
    found: dict[str, Any] = {name: number for number, name in enumerate(classes)}
    _must_name([one for name in catalog.classes for one in parts(name)], found)
    table = np.zeros((len(catalog.classes) + 1, len(classes)), np.float32)
    for row, name in enumerate(catalog.classes):
        table[row, [found[one] for one in parts(name)]] = 1
    table[-1] = np.nan
    return table


def _must_reach(highest: int, finetune: Finetune) -> None:
    named = len(finetune.classes or ())
    if highest > named:
        raise OtherClasses(
            f"a mask holds class {highest}, and finetune.classes names {named}: name them all "
            "(background is not one)."
        )


def _must_name(here: Sequence[str], known: Mapping[str, int]) -> None:
    odd = sorted(set(here) - known.keys())
    if odd:
        raise OtherClasses(
            f"{len(odd)} classes of the images are none of the run's, the first '{odd[0]}'. The "
            f"run names {', '.join(known) or 'none'}: write the same names, or add to "
            "finetune.classes."
        )
