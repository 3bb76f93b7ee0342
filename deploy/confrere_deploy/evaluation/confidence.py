"""Calibration of finished classifiers, and their figures by group of patients.

Shapes: N images, K classes, M choices.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation import calibration
from confrere_client.evaluation.fairness import Groups, by_group
from confrere_client.evaluation.paired import Weighed, weighed_figure
from confrere_client.finetune.classification import truth
from confrere_client.finetune.judge import Judge
from confrere_client.measure.intervals import Floats, Measure
from confrere_deploy.evaluation import figures, schema
from confrere_deploy.evaluation.cells import Finished, exam
from confrere_deploy.evaluation.parts import Entry
from confrere_deploy.report.schema import Figure
from confrere_deploy.study.finetuning import Lecture

HONESTY: Mapping[str, Measure] = {
    "ece": calibration.expected_calibration_error,
    "adaptive_ece": calibration.adaptive_calibration_error,
    "brier": calibration.brier,
}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Answers as choices between classes: M images, or M known findings, each present or absent."""

    scores_MK: Floats
    labels_M: NDArray[np.int64]
    rows_M: NDArray[np.int64]
    """Which image each is of."""


def choices(scores_NK: NDArray[np.float32], labels: NDArray[np.int64]) -> Choices:
    """Return answers as choices; of several findings in an image, each known one is its own."""
    scores = np.asarray(scores_NK, np.float64)
    if labels.ndim == 1:
        return Choices(scores_MK=scores, labels_M=labels, rows_M=np.arange(len(labels)))
    told_NK = labels >= 0
    present_M = scores[told_NK]
    return Choices(
        scores_MK=np.stack([1 - present_M, present_M], axis=1),
        labels_M=labels[told_NK],
        rows_M=np.nonzero(told_NK)[0],
    )


def calibrated(one: Entry, seeds: Sequence[Finished]) -> schema.Calibration | None:
    """Return calibration before and after; None for another task, and without validation images."""
    lecture = one.lecture
    is_choice = lecture.finetune.task.name == "classification"
    if not is_choice or not all("scores_NK" in seed.val for seed in seeds):
        return None
    val, test = (truth(exam(lecture, rows)) for rows in (lecture.val, seeds[0].asked))
    chosen = [choices(seed.val["scores_NK"], val) for seed in seeds]
    if not len(chosen[0].labels_M):
        return None
    heat = [
        calibration.fitted_temperature(calibration.logs(of.scores_MK), of.labels_M) for of in chosen
    ]
    asked = [choices(seed.answers["scores_NK"], test) for seed in seeds]
    plain = [of.scores_MK for of in asked]
    scaled = [
        calibration.at_temperature(calibration.logs(scores_MK), one_heat)
        for scores_MK, one_heat in zip(plain, heat, strict=True)
    ]
    labels_M = asked[0].labels_M
    patients = lecture.images.catalog.patients[seeds[0].asked][asked[0].rows_M]
    return schema.Calibration(
        arm=one.name,
        temperatures=tuple(heat),
        before=_honesty(plain, labels_M, patients),
        after=_honesty(scaled, labels_M, patients),
        bars_before=tuple(_bars(plain, labels_M)),
        bars_after=tuple(_bars(scaled, labels_M)),
    )


def _honesty(
    seeds: Sequence[Floats], labels_N: NDArray[np.int64], patients: NDArray[np.int64]
) -> dict[str, Figure]:
    found = {
        name: figures.plain(
            weighed_figure([partial(measure, scores_NK, labels_N) for scores_NK in seeds], patients)
        )
        for name, measure in HONESTY.items()
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _bars(seeds: Sequence[Floats], labels_N: NDArray[np.int64]) -> Iterator[schema.Bar]:
    every = np.concatenate(seeds)
    for bar in calibration.reliability(every, np.tile(labels_N, len(seeds))):
        yield schema.Bar(
            low=bar.low,
            high=bar.high,
            images=bar.images,
            confidence=bar.confidence,
            accuracy=bar.accuracy,
        )


def by_factor(
    one: Entry,
    judge: Judge,
    seeds: Sequence[Finished],
    factors: Mapping[str, NDArray[np.str_]],
    smallest: int,
) -> Iterator[schema.Factor]:
    """Yield the arm's figures by site, and by each factor that is known."""
    lecture = one.lecture
    asked = seeds[0].asked
    patients = lecture.images.catalog.patients[asked]
    for factor, groups in {"site": lecture.images.catalog.sites, **factors}.items():
        groups_N = groups[asked]
        if len(np.unique(groups_N[groups_N != ""])) < 2:
            continue
        within = partial(_within, lecture, judge, seeds, asked)
        found = by_group(within, patients, groups_N, smallest=smallest)
        yield _factor(one.name, factor, found)


def _within(
    lecture: Lecture,
    judge: Judge,
    seeds: Sequence[Finished],
    asked: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> list[Weighed]:
    return figures.leading(lecture, judge, seeds, asked[rows])


def _factor(arm: str, factor: str, found: Groups) -> schema.Factor:
    told = {name: figures.plain(figure) for name, figure in found.figures.items()}
    even = found.fairness
    return schema.Factor(
        arm=arm,
        factor=factor,
        figures={name: figure for name, figure in told.items() if figure is not None},
        patients=dict(sorted(found.patients.items())),
        suppressed=found.suppressed,
        evenness=None
        if even is None
        else schema.Evenness(worst=even.worst, lowest=even.lowest, gap=even.gap, jain=even.jain),
    )
