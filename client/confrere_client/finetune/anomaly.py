"""Judges what is odd: how badly foretold, how far from normal images, how strong in contrast.

Contrast, the deviation of an image's pixels, knows nothing: high or low taken for odd, it is the
floor on small images, where it can beat any network.

Scores of two sites have two scales, as their scanners differ. What is counted for a coordinator is
therefore how normal an image looks beside its site's own normal images (``normality``).

Shapes: N images asked about, G normal images learned from, F features.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from confrere_client.evaluation.anomaly import MEASURES, Sweep, pro, sweep, voxel_auroc
from confrere_client.evaluation.paired import Weighed, ranks
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, collected
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.intervals import Floats
from confrere_common.config import Run
from confrere_common.errors import DataError
from confrere_common.methods.heteroae import Usual, unlike, usual_of
from confrere_common.task import FineTask

HEADLINE = "auroc"
SWEPT = "swept "
"""What answers about places begin with."""
NEAREST = 5
NORMAL_AT_MOST = 512
"""Normal images whose maps, or whose scores, say what is usual."""

DEVIATIONS = 1.4826
"""Standard deviations of a bell curve in its median absolute one."""

LEAST = 1e-6
"""A site's normal scores spread by no less: they may all be one."""

SHRINK = 0.1
"""Part of the mean variance that is added to each: few images tell little of their spread."""


def answers(task: FineTask, exam: Exam) -> Answers:
    """Return every score of each image; where they are only counted, how normal it looks."""
    if exam.counted:
        return {"normality_N": normality(task, exam)}
    found = scores(task, exam, normal_of(task, exam))
    return {**found, **_contrast(exam), **_places(task, exam)}


@dataclass(frozen=True, kw_only=True)
class Normal:
    """What normal images have in common, found once for all that are asked about."""

    features_GF: NDArray[np.float32]
    usual: Usual


def normal_of(task: FineTask, exam: Exam) -> Normal:
    """Return what the images that were learned from have in common."""
    features_GF = collected(exam.reference, task.encoder)
    return Normal(features_GF=features_GF, usual=_usual(task, exam))


def scores(task: FineTask, exam: Exam, normal: Normal) -> dict[str, Floats]:
    """Return every score by the network of each image beside *normal* ones; higher is odder."""
    found = {"foretold": foretold(task, exam), "unusual": _unusual(task, exam, normal.usual)}
    return {**found, **_distances(collected(exam, task.encoder), normal.features_GF)}


def normality(task: FineTask, exam: Exam) -> Floats:
    """Return how normal each image looks beside its site's own normal images, 0 to 1, (N,).

    Normal images that were learned from look more normal to the network than others (they are in
    its sample): that shifts all of a site's images alike and leaves their order; sites are shifted
    against each other by as much as theirs differ.
    """
    return beside(_leading_score(task, exam), usual_scores(task, exam))


def usual_scores(task: FineTask, exam: Exam) -> Floats:
    """Return the score that leads of normal images that were learned from, (G,)."""
    return np.concatenate([_leading_score(task, half) for half in _halves(exam.reference)])


def beside(scores_N: Floats, usual_G: Floats) -> Floats:
    """Return how normal scores are beside *usual* ones, 0 to 1, (N,): 0.5 is their median.

    The distance from it, in two of their deviations (by the median absolute one), is a logit turned
    round: order is kept, and two scales become one. It is no probability.
    """
    middle = float(np.median(usual_G))
    spread = max(DEVIATIONS * float(np.median(np.abs(usual_G - middle))), LEAST)
    found: Floats = expit((middle - scores_N) / (2 * spread))
    return found


def _halves(normal: Exam) -> Iterator[Exam]:
    """Yield exams on some normal images, each beside those of the other half of the patients.

    Beside themselves they would lie far too near by distance: with as many features as images, all
    others then seemed hundreds of deviations away, and nobody would be told from anybody.
    """
    rows, some = normal.asked, _some(normal.asked)
    _, owner_G = np.unique(normal.images.catalog.patients[rows], return_inverse=True)
    first, second = rows[owner_G % 2 == 0], rows[owner_G % 2 == 1]
    if not len(second):  # of one patient there are no halves
        first, second = rows, rows
    for one, other in ((first, second), (second, first)):
        asked = np.intersect1d(one, some)
        if len(asked):
            yield replace(normal, asked=asked, learned=other)


def _some(rows: Rows) -> Rows:
    """Return NORMAL_AT_MOST of the rows, or fewer, evenly."""
    return rows[:: max(1, -(-len(rows) // NORMAL_AT_MOST))]


def _leading_score(task: FineTask, exam: Exam) -> Floats:
    """Return the score that leads of each image, (N,): higher is odder."""
    leads = leading(exam.run)
    if leads == "foretold":
        return foretold(task, exam)
    if leads == "unusual":
        return _unusual(task, exam, _usual(task, exam))
    apart = {"knn": _nearest, "mahalanobis": _mahalanobis}[leads]
    return apart(collected(exam, task.encoder), collected(exam.reference, task.encoder))


def foretold(task: FineTask, exam: Exam) -> Floats:
    """Return how badly the worst place of each image is foretold."""
    worst_N = collected(exam, lambda images: task.predict(images).flatten(1).amax(1))
    return np.asarray(worst_N, np.float64)


def _usual(task: FineTask, exam: Exam) -> Usual:
    """Return how badly each place of normal images is foretold."""
    reference = exam.reference
    return usual_of(torch.from_numpy(collected(reference, task.predict, _some(reference.asked))))


def _unusual(task: FineTask, exam: Exam, usual: Usual) -> Floats:
    """Return how unlike normal images each is foretold, worse or better."""

    def odd(images_BCZYX: Tensor) -> Tensor:
        return unlike(task.predict(images_BCZYX).float().cpu(), usual)

    return np.asarray(collected(exam, odd), np.float64)


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
    abnormal_N, leads = _abnormal(exam), leading(exam.run)
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
    return {**_distances(asked_NF, normal_GF), **_contrast(exam)}


def _distances(asked_NF: NDArray[np.float32], normal_GF: NDArray[np.float32]) -> dict[str, Floats]:
    return {
        "knn": _nearest(asked_NF, normal_GF),
        "mahalanobis": _mahalanobis(asked_NF, normal_GF),
    }


def _contrast(exam: Exam) -> Answers:
    contrast_N = exam.images.batch(exam.asked).float().flatten(1).std(1).numpy()
    return {"contrast": contrast_N, "low contrast": -contrast_N}


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


def leading(run: Run) -> str:
    """Return which score the run's own figures are by."""
    knobs = run.finetune.task.knobs if run.finetune is not None else {}
    return str(knobs.get("score", "foretold"))
