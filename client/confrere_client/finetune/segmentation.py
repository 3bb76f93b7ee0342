"""Judges masks: Dice, IoU and surface distance of each class, of whole images.

Where a run takes crops, whole images are answered window by window, each at its own size.

Shapes: N images, K classes with background first, [Z] Y X voxels (Z only in 3-D).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.evaluation.paired import InUnits, Weighed, weighed_mean
from confrere_client.evaluation.segmentation import (
    Cases,
    Structure,
    judged,
    over_classes,
    structures,
)
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, asked_in_batches
from confrere_common.augment import intensity
from confrere_common.augment.pipeline import normalise
from confrere_common.task import FineTask

HEADLINE = "dice"

MEANS: Mapping[str, str] = {"dice": "dice_NC", "iou": "iou_NC", "hd95 over diagonal": "far_NC"}
"""Figure -> the answers of which it is the mean."""

BLACK = -intensity.MEAN / intensity.STD
"""What the darkest voxel is after normalising."""


@torch.inference_mode()
def probabilities(
    task: FineTask, exam: Exam, rows: Rows | None = None
) -> Iterator[tuple[Rows, Tensor]]:
    """Yield rows and the probability of each class in each voxel, (B, K, [Z] Y X).

    Where the run takes crops, of one whole image at a time.
    """
    for some, images in _asked(exam, rows):
        yield some, _found(task, images)


@torch.inference_mode()
def answers(task: FineTask, exam: Exam) -> Answers:
    """Return Dice, IoU and distance of each case and class, (N, K - 1).

    Distances are shares of the image's diagonal, and in mm too where all images tell their spacing.
    They are left out where answers are only counted: they would take longer than all else.
    """
    parts, diagonals = [], []
    for rows, probable in probabilities(task, exam):
        found = probable.argmax(1).cpu().numpy()
        truth, spacing_mm = _truth(exam, rows), _spacing_mm(exam, rows)
        classes, far = len(task.classes) + 1, not exam.counted
        parts.append(judged(found, truth, classes, spacing_mm=spacing_mm, distances=far))
        steps = spacing_mm or (1.0,) * (truth.ndim - 1)
        diagonals += [math.hypot(*np.multiply(truth.shape[1:], steps))] * len(rows)
    cases = Cases.joined(parts)
    told = {"dice_NC": cases.dice_NC, "iou_NC": cases.iou_NC, "empty_NC": cases.truth_empty_NC}
    if exam.counted:
        return told
    if all(_spacing_mm(exam, [row]) for row in exam.asked):
        told["mm_NC"] = cases.hd95_NC
    far_NC = cases.hd95_NC / np.array(diagonals)[:, None]
    return {**told, "far_NC": far_NC, "nothing_NC": cases.found_empty_NC}


@torch.inference_mode()
def found_masks(task: FineTask, exam: Exam, rows: Rows) -> NDArray[np.int64]:
    """Return the likeliest class of each voxel of some images of one size, (B, [Z] Y X)."""
    found = [probable.argmax(1).cpu() for _, probable in probabilities(task, exam, rows)]
    return np.asarray(torch.cat(found).numpy(), np.int64)


def _asked(exam: Exam, rows: Rows | None = None) -> Iterator[tuple[Rows, Tensor]]:
    """Yield rows and their normalised images: one by one, whole, where the run takes crops."""
    if not exam.images.cropped:
        yield from asked_in_batches(exam, rows)
        return
    for row in exam.asked if rows is None else rows:
        # Not on the device: a scan of hundreds of slices may not have room there.
        yield np.array([row]), normalise(exam.images.whole(int(row)))


def _truth(exam: Exam, rows: Rows) -> NDArray[Any]:
    if exam.images.cropped:
        return exam.images.whole_mask(int(rows[0]))[None]
    return exam.images.known("mask", rows).numpy()


def _spacing_mm(exam: Exam, rows: Sequence[int] | Rows) -> tuple[float, ...] | None:
    """Return the spacing of the one image asked for; None where it is not known.

    Images that were resized to one size have lost theirs.
    """
    known = exam.images.spacings_mm
    return (known[int(rows[0])] or None) if known else None


def _found(task: FineTask, images_BCZYX: Tensor) -> Tensor:
    """Return probabilities; images of another size than the encoder's are asked by windows."""
    sides = tuple(images_BCZYX.shape[2:])
    if sides == tuple(task.encoder.size):
        device = next(task.parameters()).device
        return task.predict(images_BCZYX.to(device))
    return in_windows(task, images_BCZYX)


def by_probe(features: Features, exam: Exam, val: Rows) -> Answers | None:  # noqa: ARG001
    """Return nothing: features of a whole image tell of no voxel."""
    return None


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return means over cases, and over the structures that any image asked about has.

    Distances are shares of the image's diagonal, and in mm too if known. NaN of a structure that
    no image has.
    """
    names = (exam.run.finetune.classes or ()) if exam.run.finetune is not None else ()
    empty_NC = answers["empty_NC"]
    found: dict[str, Weighed] = {
        name: weighed_mean(over_classes(answers[values], empty_NC))
        for name, values in MEANS.items()
        if values in answers
    }
    if "mm_NC" in answers:
        found["hd95 mm"] = InUnits(values_N=over_classes(answers["mm_NC"], empty_NC))
    if len(names) == 1:
        there_NC = np.where(empty_NC, np.nan, answers["dice_NC"])
        return {**found, "dice where there is something": weighed_mean(there_NC[:, 0])}
    dice_NC = np.where(empty_NC.all(axis=0), np.nan, answers["dice_NC"])
    return found | {f"dice of {n}": weighed_mean(dice_NC[:, k]) for k, n in enumerate(names)}


def told_structures(seeds: Sequence[Answers], exam: Exam) -> Mapping[str, Structure]:
    """Return structure -> its counts and quartiles over seeds, distances as shares of the diagonal.

    Empty for answers of another task, and for those of a version that kept less of them.
    """
    names = (exam.run.finetune.classes or ()) if exam.run.finetune is not None else ()
    if not all("nothing_NC" in answers for answers in seeds):
        return {}
    return structures([_cases(answers) for answers in seeds], names)


def _cases(answers: Answers) -> Cases:
    return Cases(
        dice_NC=answers["dice_NC"],
        iou_NC=answers["iou_NC"],
        hd95_NC=answers["far_NC"],
        truth_empty_NC=answers["empty_NC"],
        found_empty_NC=answers["nothing_NC"],
    )


def ranked(answers: Answers) -> Answers:
    """Return the answers: each image is judged by itself."""
    return answers


def in_windows(task: FineTask, images_BCZYX: Tensor, *, overlap: float = 0.5) -> Tensor:
    """Return probabilities of images of another size than the encoder's, window by window (MONAI).

    Voxels must be as large as those that were learned from. A side that is smaller than a window
    is filled up with black, and cut again. Windows go to the task's device, the answer is put
    together where the images are.
    """
    # Imported here: MONAI takes seconds to load.
    from monai.inferers.utils import sliding_window_inference

    size: Sequence[int] = task.encoder.size
    with torch.inference_mode():
        found = sliding_window_inference(
            images_BCZYX, size, sw_batch_size=4, predictor=task.predict, overlap=overlap,
            mode="gaussian", cval=BLACK, device=images_BCZYX.device,
            sw_device=next(task.parameters()).device,
        )  # fmt: skip
    return torch.as_tensor(found)
