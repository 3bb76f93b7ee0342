"""What a reader of a fine-tuning should know of its images before believing the figures."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.finetune.lesson import Lesson
from confrere_common.finetune import Finetune
from confrere_common.task import TASKS

Rows = NDArray[np.int64]


def notes_on(
    task: Finetune, images: Images, sites: Mapping[str, Rows], test: Rows
) -> Iterator[str]:
    """Yield what a reader should know: sites that lack something, rare classes, odd drawings."""
    for site, rows in sites.items():
        if not len(rows):
            yield f"Site '{site}' has no marked image and takes no part."
        elif labelled(task) and "normal" not in task.task.knobs:
            lesson = Lesson(images=images, rows=rows, finetune=task)
            if lesson.missing:
                how = "left out of its loss" if task.missing == "mask" else "kept in its loss"
                yield f"Site '{site}' has no image of {', '.join(lesson.missing)}: {how}."
    if labelled(task):
        yield from _rare(images, task, np.concatenate([*sites.values(), test]))
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


def labelled(task: Finetune) -> bool:
    """Say whether the task's classes are those of whole images."""
    return bool(task.classes) and TASKS.member(task.task.name).marks == "label"


def _rare(images: Images, task: Finetune, rows: Rows) -> Iterator[str]:
    lesson = Lesson(images=images, rows=rows, finetune=task)
    if task.task.knobs.get("kind") == "multilabel":
        return
    for number, name in enumerate(task.classes or ()):
        ours = rows[lesson.labels == number]
        if len(np.unique(images.catalog.patients[ours])) < 3:
            yield f"Class '{name}' has fewer than 3 patients: nothing can be said of it."
