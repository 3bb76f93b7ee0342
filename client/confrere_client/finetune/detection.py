"""Judges boxes: average precision at one overlap and over ten, FROC, and each class by itself.

Shapes: N images, Q boxes kept of an image, P places, K classes, D axes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.evaluation.detection import AP, Boxes, iou, measures
from confrere_client.evaluation.paired import Weighed, ranks
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, asked_in_batches
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.intervals import Floats
from confrere_common.errors import DataError
from confrere_common.task import FineTask

HEADLINE = AP
KEPT = 100
"""Boxes of an image at most, as COCO counts."""
CANDIDATES = 400
LEAST_SCORE = 0.02
SAME = 0.5
"""Overlap from which two boxes of a class are the same object: the surer one stays."""


@torch.inference_mode()
def answers(task: FineTask, exam: Exam) -> Answers:
    """Return boxes, scores and classes of each image, NaN beyond those found, (N, Q, 2 D + 2)."""
    axes = len(task.encoder.size)
    parts = []
    for _, images in asked_in_batches(exam):
        found = task.predict(images).float().cpu().numpy()
        parts += [kept(one[:, : 2 * axes], one[:, 2 * axes :]) for one in found]
    return {"found_NQ": np.stack(parts)}


def kept(boxes: NDArray[np.float32], scores_PK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the surest boxes of one image that are not the same object: box, score, class."""
    places, kinds = np.nonzero(scores_PK > LEAST_SCORE)
    scores = scores_PK[places, kinds]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    places, kinds, scores = places[order], kinds[order], scores[order]
    close = iou(boxes[places].astype(np.float64), boxes[places].astype(np.float64))
    close *= kinds[:, None] == kinds[None]
    stays: list[int] = []
    for place in range(len(places)):
        if len(stays) < KEPT and not (close[place, stays] > SAME).any():
            stays.append(place)
    whole = np.full((KEPT, boxes.shape[1] + 2), np.nan, np.float32)
    whole[: len(stays), :-2] = boxes[places[stays]]
    whole[: len(stays), -2] = scores[stays]
    whole[: len(stays), -1] = kinds[stays]
    return whole


def by_probe(features: Features, exam: Exam, val: Rows) -> Answers | None:  # noqa: ARG001
    """Return nothing: features of a whole image tell of no place."""
    return None


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return average precision and FROC, the mean over classes, and each class."""
    found = [_boxes(one, scored=True) for one in np.asarray(answers["found_NQ"], np.float64)]
    finetune = exam.run.finetune
    if finetune is None:
        raise DataError("the run fine-tunes nothing: it has no section finetune.")
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=finetune)
    drawn = lesson.known("boxes", np.arange(len(exam.asked))).numpy().astype(np.float64)
    truth = [_boxes(one, scored=False) for one in drawn]
    return measures(found, truth, finetune.classes or ())


def ranked(answers: Answers) -> Answers:
    """Return each box with its place among the boxes of its class as its score."""
    found_NQ = np.array(answers["found_NQ"], np.float64)
    kinds, scores = found_NQ[..., -1], found_NQ[..., -2]
    for kind in np.unique(kinds[np.isfinite(kinds)]):
        scores[kinds == kind] = ranks(scores[kinds == kind])
    return {"found_NQ": found_NQ}


def _boxes(rows: Floats, *, scored: bool) -> Boxes:
    rows = rows[np.isfinite(rows).all(axis=1)]
    ends = rows.shape[1] - (2 if scored else 1)
    scores = rows[:, ends] if scored else np.ones(len(rows))
    return Boxes(boxes=rows[:, :ends], labels=rows[:, -1].astype(np.int64), scores=scores)
