"""Judges what is odd: how badly foretold, how far from normal images, how strong in contrast.

Contrast, the deviation of an image's pixels, knows nothing: high or low taken for odd, it is the
floor on small images, where it can beat any network.

Shapes: N images asked about, G normal images learned from, F features.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.evaluation.anomaly import MEASURES, Sweep, pro, sweep, voxel_auroc
from confrere_client.evaluation.paired import Weighed, ranks
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, collected
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.intervals import Floats
from confrere_common.errors import DataError
from confrere_common.methods.heteroae import unlike, usual_of
from confrere_common.task import FineTask

HEADLINE = "auroc"
SWEPT = "swept "
"""What answers about places begin with."""
NEAREST = 5
NORMAL_AT_MOST = 512
"""Normal images whose maps say what is usual."""

SHRINK = 0.1
"""Part of the mean variance that is added to each: few images tell little of their spread."""


def answers(task: FineTask, exam: Exam) -> Answers:
    """Return every score of each image."""

    def oddest(images_BCZYX: Tensor) -> Tensor:
        return task.predict(images_BCZYX).flatten(1).amax(1)

    asked_NF = collected(exam, task.encoder)
    normal_GF = collected(exam, task.encoder, exam.learned)
    found = {"foretold": collected(exam, oddest), "unusual": _unusual(task, exam)}
    return {**found, **_apart(asked_NF, normal_GF, exam), **_places(task, exam)}


def _unusual(task: FineTask, exam: Exam) -> NDArray[np.float32]:
    """Return how unlike normal images each is foretold, worse or better."""
    rows = exam.learned[:: max(1, -(-len(exam.learned) // NORMAL_AT_MOST))]
    usual = usual_of(torch.from_numpy(collected(exam, task.predict, rows)))

    def odd(images_BCZYX: Tensor) -> Tensor:
        return unlike(task.predict(images_BCZYX).float().cpu(), usual)

    return collected(exam, odd)


def maps(task: FineTask, exam: Exam, rows: Rows) -> Floats:
    """Return how badly each place of some images is foretold, (B, [Z] Y X)."""
    return np.asarray(collected(exam, lambda images: task.predict(images)[:, 0], rows), np.float64)


def _places(task: FineTask, exam: Exam) -> Answers:
    """Return what the maps find at each threshold, where masks say what there is to be found."""
    known_N = exam.images.has("mask")[exam.asked]
    rows = exam.asked[known_N]
    if not len(rows):
        return {}
    found = sweep(maps(task, exam, rows), exam.images.known("mask", rows).numpy())
    whole = {}
    for name, values in vars(found).items():
        whole[f"{SWEPT}{name}"] = np.zeros((len(known_N), *values.shape[1:]))
        whole[f"{SWEPT}{name}"][known_N] = values
    return whole


def by_probe(features: Features, exam: Exam, val: Rows) -> Answers | None:  # noqa: ARG001
    """Return how far fixed features lie from those of normal images."""
    found = _apart(features(exam.asked), features(exam.learned), exam)
    return {**found, "foretold": found["knn"], "unusual": found["knn"]}


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return what the leading score tells of abnormal images, the area of every other, and PRO."""
    abnormal_N, leads = _abnormal(exam), _leading(exam)
    found: dict[str, Weighed] = {
        name: partial(measure, np.asarray(answers[leads], np.float64), abnormal_N)
        for name, measure in MEASURES.items()
    }
    by_voxel = {k.removeprefix(SWEPT): v for k, v in answers.items() if k.startswith(SWEPT)}
    if by_voxel:
        found |= {"PRO": partial(pro, Sweep(**by_voxel))}
        found |= {"auroc of voxels": partial(voxel_auroc, Sweep(**by_voxel))}
    for name, scores in answers.items():
        if name.startswith(SWEPT):
            continue
        scores_N = np.asarray(scores, np.float64)
        found[f"auroc by {name}"] = partial(MEASURES[HEADLINE], scores_N, abnormal_N)
    return found


def ranked(answers: Answers) -> Answers:
    """Return the place of each image in the list of each score."""
    scores = {name: of for name, of in answers.items() if not name.startswith(SWEPT)}
    return {name: ranks(np.asarray(of, np.float64)) for name, of in scores.items()}


def _apart(asked_NF: NDArray[np.float32], normal_GF: NDArray[np.float32], exam: Exam) -> Answers:
    contrast_N = exam.images.batch(exam.asked).float().flatten(1).std(1).numpy()
    return {
        "knn": _nearest(asked_NF, normal_GF),
        "mahalanobis": _mahalanobis(asked_NF, normal_GF),
        "contrast": contrast_N,
        "low contrast": -contrast_N,
    }


def _nearest(asked_NF: NDArray[np.float32], normal_GF: NDArray[np.float32]) -> Floats:
    """Return one minus the mean cosine to the nearest normal images."""
    asked, normal = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (asked_NF, normal_GF)
    )
    close = np.sort(asked @ normal.T, axis=1)[:, -NEAREST:]
    return np.asarray(1 - close.mean(axis=1), np.float64)


def _mahalanobis(asked_NF: NDArray[np.float32], normal_GF: NDArray[np.float32]) -> Floats:
    """Return the distance from the normal images' mean in units of their spread (shrunk)."""
    mean_F = normal_GF.mean(axis=0, dtype=np.float64)
    apart_GF, apart_NF = normal_GF - mean_F, asked_NF - mean_F
    spread_FF = apart_GF.T @ apart_GF / max(len(normal_GF), 1)
    level = SHRINK * np.trace(spread_FF) / len(mean_F) + 1e-12
    turned_FN = np.linalg.solve(spread_FF + level * np.eye(len(mean_F)), apart_NF.T)
    return np.asarray(np.sqrt(np.maximum((apart_NF * turned_FN.T).sum(axis=1), 0)))


def _abnormal(exam: Exam) -> NDArray[np.bool_]:
    if exam.run.finetune is None:
        raise DataError("the run fine-tunes nothing: it has no section finetune.")
    normal = exam.run.finetune.task.knobs["normal"]
    classes = exam.run.finetune.classes or ()
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=exam.run.finetune)
    return np.asarray(lesson.labels != classes.index(normal))


def _leading(exam: Exam) -> str:
    knobs = exam.run.finetune.task.knobs if exam.run.finetune is not None else {}
    return str(knobs.get("score", "foretold"))
