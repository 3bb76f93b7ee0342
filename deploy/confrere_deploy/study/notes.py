"""What a reader of a fine-tuning should know of its images before believing the figures."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.finetune.lacking import lacking, listed
from confrere_client.finetune.lesson import Lesson
from confrere_common.finetune import Finetune
from confrere_common.task import TASKS

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]

FEW = 3
"""Patients below which nothing can be said of a class."""

STRAY = (
    "finetune.classes is open, so every number up to the highest in a mask is a class. Where a "
    "mask holds one by mistake, mend it or leave it out; and name finetune.classes: any number "
    "beyond them is refused then."
)


def notes_on(
    task: Finetune, images: Images, sites: Mapping[str, Rows], test: Rows, *, named: bool
) -> Iterator[str]:
    """Yield what a reader should know: sites that lack something, rare classes, odd drawings.

    *named* says whether the run named its classes; else they were taken as the images have them.
    """
    for site, rows in sites.items():
        if not len(rows):
            yield f"Site '{site}' has no marked image and takes no part."
        else:
            lesson = Lesson(images=images, rows=rows, finetune=task)
            yield from lacking(task, lesson.counts, f"Site '{site}'")
    passed_K = _passed_over(task, images, named=named)
    rare = [*_rare(images, task, np.concatenate([*sites.values(), test]), but=passed_K)]
    yield from rare
    if passed_K.any():
        yield (
            f"The highest number in a mask is {len(passed_K)}, and at this size no mask holds "
            f"{listed(task.classes or (), passed_K)}."
        )
    if _numbered(task, named=named) and (rare or passed_K.any()):
        yield STRAY
    yield from _of_drawings(images, TASKS.member(task.task.name).marks)


def _of_drawings(images: Images, marks: str) -> Iterator[str]:
    if marks == "mask":
        yield from _of_masks(images)
    if marks == "boxes" and images.boxes is not None:
        for reason, count in images.boxes.told["skipped"].items():
            yield f"Boxes left out or cut, {reason}: {count}."


def _of_masks(images: Images) -> Iterator[str]:
    if images.masks is not None:
        told = images.masks.told
        if told["empty"]:
            yield f"{told['empty']} masks are empty: there, only finding nothing is right."
        for reason, count in told["skipped"].items():
            yield f"{count} masks cannot serve their image: {reason}."


def _numbered(task: Finetune, *, named: bool) -> bool:
    """Say whether classes are the numbers that masks hold, as nobody named them."""
    return not named and TASKS.member(task.task.name).marks == "mask"


def _passed_over(task: Finetune, images: Images, *, named: bool) -> Flags:
    """Return which classes are numbers below the highest that no mask holds, (K,)."""
    passed_K = np.zeros(len(task.classes or ()), np.bool_)
    if _numbered(task, named=named) and images.masks is not None:
        holds_NC = images.masks.holds  # of no number at all where all masks are empty
        passed_K[: holds_NC.shape[1]] = ~holds_NC.any(axis=0)
    return passed_K


def _rare(images: Images, task: Finetune, rows: Rows, *, but: Flags) -> Iterator[str]:
    holds_NK = Lesson(images=images, rows=rows, finetune=task).holds
    patients_N = images.catalog.patients[rows]
    for number, name in enumerate(task.classes or ()):
        if not but[number] and len(np.unique(patients_N[holds_NK[:, number]])) < FEW:
            yield f"Class '{name}' has fewer than {FEW} patients: nothing can be said of it."
