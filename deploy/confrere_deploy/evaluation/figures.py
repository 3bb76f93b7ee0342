"""Figures of finished cells: means over seeds with intervals over patients, and paired differences.

Shapes: N images.
"""

from collections.abc import Sequence

import numpy as np

from confrere_client.evaluation.paired import (
    SWAPS,
    Weighed,
    swap_test,
    weighed_difference,
    weighed_figure,
)
from confrere_client.finetune.judge import Answers, Exam, Judge, Rows, both
from confrere_client.measure.intervals import Figure
from confrere_deploy.evaluation.cells import Finished, exam
from confrere_deploy.report import schema
from confrere_deploy.study.finetuning import Lecture


def plain(figure: Figure | None) -> schema.Figure | None:
    """Return a figure as reports hold it."""
    if figure is None:
        return None
    return schema.Figure(mean=figure.mean, low=figure.low, high=figure.high, n=figure.n)


def at(answers: Answers, asked: Rows, rows: Rows) -> Answers:
    """Return answers for some of the images that were asked about; both ascend."""
    places = np.searchsorted(asked, rows)
    return {name: values[places] for name, values in answers.items()}


def every(lecture: Lecture, judge: Judge, seeds: Sequence[Finished]) -> dict[str, schema.Figure]:
    """Return measure -> figure on all test images; undefined ones are absent."""
    rows = seeds[0].asked
    paper = exam(lecture, rows)
    each = [judge.figures(seed.answers, paper) for seed in seeds]
    patients = lecture.images.catalog.patients[rows]
    found = {
        measure: plain(weighed_figure([one[measure] for one in each], patients))
        for measure in each[0]
        # A cell that an older version finished may hold less.
        if all(measure in one for one in each)
    }
    return {measure: figure for measure, figure in found.items() if figure is not None}


def leading(lecture: Lecture, judge: Judge, seeds: Sequence[Finished], rows: Rows) -> list[Weighed]:
    """Return the leading measure of each seed on some test images."""
    paper = exam(lecture, rows)
    return [judged(judge, at(seed.answers, seed.asked, rows), paper) for seed in seeds]


def judged(judge: Judge, answers: Answers, paper: Exam) -> Weighed:
    """Return the leading measure of answers."""
    return judge.figures(answers, paper)[judge.HEADLINE]


def figure(
    lecture: Lecture, judge: Judge, seeds: Sequence[Finished], rows: Rows
) -> schema.Figure | None:
    """Return the leading measure on some test images."""
    patients = lecture.images.catalog.patients[rows]
    return plain(weighed_figure(leading(lecture, judge, seeds, rows), patients))


def p_value(
    lecture: Lecture,
    judge: Judge,
    pairs: Sequence[tuple[Finished, Finished]],
    rows: Rows,
    swaps: int = SWAPS,
) -> float | None:
    """Return p that arms differ by chance, seed by seed on the same images; None if not known."""
    paper = exam(lecture, rows)
    found = [
        both(judge, at(ours.answers, ours.asked, rows), at(theirs.answers, theirs.asked, rows),
             paper)
        for ours, theirs in pairs
    ]  # fmt: skip
    p = swap_test(found, lecture.images.catalog.patients[rows], swaps=swaps)
    return p if np.isfinite(p) else None


def gap(
    lecture: Lecture, judge: Judge, ours: Sequence[Finished], theirs: Sequence[Finished], rows: Rows
) -> schema.Figure | None:
    """Return how much higher the leading measure of *ours* is, on the same patients and seeds."""
    mine, other = (leading(lecture, judge, seeds, rows) for seeds in (ours, theirs))
    return plain(weighed_difference(mine, other, lecture.images.catalog.patients[rows]))
