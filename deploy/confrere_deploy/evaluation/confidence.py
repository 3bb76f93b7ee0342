"""Calibration of finished classifiers, and their figures by group of patients.

Shapes: N images, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation import calibration
from confrere_client.evaluation.fairness import Groups, weighed_groups
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


def calibrated(one: Entry, seeds: Sequence[Finished]) -> schema.Calibration | None:
    """Return calibration before and after; None for findings, and without validation images."""
    task = one.lecture.finetune.task
    exclusive = task.name == "classification" and task.knobs.get("kind") != "multilabel"
    if not exclusive or not all("scores_NK" in seed.val for seed in seeds):
        return None
    lecture = one.lecture
    val_N = truth(exam(lecture, lecture.val))
    heat = [calibration.fitted_temperature(_logs(seed.val), val_N) for seed in seeds]
    plain = [np.asarray(seed.answers["scores_NK"], np.float64) for seed in seeds]
    scaled = [
        calibration.at_temperature(_logs(seed.answers), one_heat)
        for seed, one_heat in zip(seeds, heat, strict=True)
    ]
    test_N = truth(exam(lecture, seeds[0].asked))
    patients = lecture.images.catalog.patients[seeds[0].asked]
    return schema.Calibration(
        arm=one.name,
        temperatures=tuple(heat),
        before=_honesty(plain, test_N, patients),
        after=_honesty(scaled, test_N, patients),
        bars_before=tuple(_bars(plain, test_N)),
        bars_after=tuple(_bars(scaled, test_N)),
    )


def _logs(answers: Mapping[str, NDArray[np.float32]]) -> Floats:
    return calibration.logs(np.asarray(answers["scores_NK"], np.float64))


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
        found = weighed_groups(within, patients, groups_N, smallest=smallest)
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
