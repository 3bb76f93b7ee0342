"""What a site says of a model that was scored on its held-out patients: one line of counts.

Shapes: N images, K classes, C structures.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.enough import told_apart, told_whole
from confrere_client.evaluation.shared import Answer, answer
from confrere_client.finetune import classification, retrieval
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.lesson import Lesson
from confrere_client.halving import cells
from confrere_client.measure.intervals import Truth
from confrere_common.describe import MOST_TEXT
from confrere_common.errors import DataError
from confrere_common.finetune import Finetune
from confrere_common.judged import evaluation_text
from confrere_common.tally import Cell, ClassTally, step_of


class NothingToScore(DataError):  # noqa: N818  (the code says it better)
    """A site has nobody on whom a model could be scored, or no head to score it with."""

    code = "nothing-to-score"


def told(answers: Answers, exam: Exam, *, smallest: int) -> str:
    """Return what leaves a site: how many images of each class score in which range.

    Guarantee: that of ``shared.answer`` for exclusive classes; findings and structures are told of
    whole, and only as ``enough.told_whole`` allows: each count is of *smallest* patients at least,
    all add up to the same images, and so does what the side of one has more than that of another
    that lies within it. What is normal is told of as one finding. Of searches, held-out images of a
    class of fewer patients change nothing that leaves, and those of a class that are left out, as
    they have nothing to find, are of nobody or of *smallest* patients at least. Where that is too
    long a text, cells are made larger.

    Not promised: that no cells of two tallies differ by a few. They do where scores of two classes
    run alike, which who makes the weights decides.
    """
    least = smallest
    tell = next((tell for name, tell in TELL.items() if name in answers), _classes)
    while True:
        found = tell(answers, exam, smallest)
        plain = found.as_dict()
        if len(json.dumps(plain)) <= MOST_TEXT:
            return evaluation_text(plain, found.classes, least)
        smallest *= 2


def _classes(answers: Answers, exam: Exam, smallest: int) -> Answer:
    scores_NK = np.asarray(answers["scores_NK"], np.float64)
    labels, patients = classification.truth(exam), exam.images.catalog.patients[exam.asked]
    if labels.ndim == 2:
        return _findings(scores_NK, labels, patients, smallest)
    return answer(scores_NK, Truth(labels=labels, patients=patients), smallest=smallest)


def _structures(answers: Answers, exam: Exam, smallest: int) -> Answer:
    """Return the tally of each structure's Dice, of images that have it and of those that lack it.

    Where a few patients have it, or lack it, neither is told: one side is all images less the
    other, and all images are what any other structure's sides add up to. The Dice of an image
    without the structure is 1 where nothing was marked, else 0.
    """
    step_NC = step_of(np.asarray(answers["dice_NC"], np.float64))
    lacks_NC = np.asarray(answers["empty_NC"], bool)
    patients_N = exam.images.catalog.patients[exam.asked]

    def side(kind: int, mine_N: NDArray[np.bool_]) -> tuple[Cell, ...]:
        return cells(step_NC[mine_N, kind], patients_N[mine_N], smallest)

    tallies = tuple(
        ClassTally(
            kind=kind,
            positives=side(kind, ~lacks_NC[:, kind]),
            negatives=side(kind, lacks_NC[:, kind]),
        )
        for kind in told_whole(~lacks_NC, patients_N, smallest)
    )
    return Answer(classes=lacks_NC.shape[1], smallest=smallest, tallies=tallies)


def _boxes(answers: Answers, exam: Exam, smallest: int) -> Answer:
    """Return the tally of how sure the surest box of each class is, where one is drawn or not.

    Whether it lies in the right place does not count: places are of single images.
    """
    found_NQR, finetune = np.asarray(answers["found_NQ"], np.float64), _finetune(exam)
    kinds = range(len(finetune.classes or ()))
    sure_NK = [np.where(found_NQR[..., -1] == k, found_NQR[..., -2], 0).max(1) for k in kinds]
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=finetune)
    patients_N = exam.images.catalog.patients[exam.asked]
    drawn_NK = lesson.holds.astype(np.int64)
    return _findings(np.stack(sure_NK, axis=1), drawn_NK, patients_N, smallest)


def _normality(answers: Answers, exam: Exam, smallest: int) -> Answer:
    """Return the one tally of how normal images look: of the normal class, and of all others."""
    finetune = _finetune(exam)
    kind, lesson = finetune.normal, Lesson(images=exam.images, rows=exam.asked, finetune=finetune)
    if kind is None:
        raise NothingToScore("the run calls no class normal")
    normal_N = np.where(lesson.labels < 0, -1, lesson.labels == kind)
    scores_N1 = np.asarray(answers["normality_N"], np.float64)[:, None]
    patients_N = exam.images.catalog.patients[exam.asked]
    found = _findings(scores_N1, normal_N[:, None], patients_N, smallest)
    tallies = tuple(replace(one, kind=kind) for one in found.tallies)
    return replace(found, classes=len(finetune.classes or ()), tallies=tallies)


def _searches(answers: Answers, exam: Exam, smallest: int) -> Answer:
    """Return the tally of each class's precision among the first five that its queries find.

    A query that has nothing to find (NaN) does not count; where these are of a few patients, or
    all others are, the class is not told of: somebody who knows how many images it has would know
    the few by the difference.
    """
    finetune = _finetune(exam)
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=finetune)
    found_N = np.asarray(answers[retrieval.HEADLINE], np.float64)
    known_N, patients_N = ~np.isnan(found_N), exam.images.catalog.patients[exam.asked]

    def each() -> Iterator[ClassTally]:
        for kind in range(len(finetune.classes or ())):
            mine_N = lesson.labels == kind
            rows = np.flatnonzero(mine_N & known_N)
            if told_whole(known_N[mine_N][:, None], patients_N[mine_N], smallest):
                positives = cells(step_of(found_N[rows]), patients_N[rows], smallest)
                if positives:
                    yield ClassTally(kind=kind, positives=positives, negatives=())

    return Answer(classes=len(finetune.classes or ()), smallest=smallest, tallies=tuple(each()))


def _finetune(exam: Exam) -> Finetune:
    if exam.run.finetune is None:
        raise NothingToScore("the run fine-tunes nothing")
    return exam.run.finetune


TELL = {
    "dice_NC": _structures,
    "found_NQ": _boxes,
    "normality_N": _normality,
    retrieval.HEADLINE: _searches,
}
"""What a task's answers hold -> how they are told of; all else are scores of classes."""


def _findings(
    scores_NK: NDArray[np.float64],
    labels_NK: NDArray[np.int64],
    patients_N: NDArray[np.int64],
    smallest: int,
) -> Answer:
    """Return the tally of each finding against its absence, where all are known."""
    rows = np.flatnonzero((labels_NK >= 0).all(axis=1))
    labels_NK, patients_N, scores_NK = labels_NK[rows], patients_N[rows], scores_NK[rows]

    def each() -> Iterator[ClassTally]:
        for kind in told_apart(labels_NK == 1, patients_N, smallest):
            mine = scores_NK[:, kind]
            truth = Truth(labels=labels_NK[:, kind], patients=patients_N)
            found = answer(np.stack([1 - mine, mine], axis=1), truth, smallest=smallest)
            yield from (replace(one, kind=kind) for one in found.tallies)

    return Answer(classes=scores_NK.shape[1], smallest=smallest, tallies=tuple(each()))
