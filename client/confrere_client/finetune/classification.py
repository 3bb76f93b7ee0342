"""Judges a classifier: how it ranks, decides, and how honest its confidence is.

Shapes: N images, K classes, D draws.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.classification import (
    FINDINGS,
    MEASURES,
    ORDINAL,
    decisions,
    reached,
    thresholds,
)
from confrere_client.evaluation.paired import Weighed, ranks
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, collected
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.intervals import Floats, Measure
from confrere_client.measure.probe import Labelled, linear_probe
from confrere_common.task import FineTask

HEADLINE = "auc"


def answers(task: FineTask, exam: Exam) -> Answers:
    """Return the probability of each class for each image."""
    return {"scores_NK": collected(exam, task.predict)}


def by_probe(features: Features, exam: Exam, val: Rows) -> Answers | None:
    """Return the answers of a logistic regression on fixed features; of exclusive classes only."""
    finetune = exam.run.finetune
    if finetune is None or finetune.task.knobs.get("kind") == "multilabel":
        return None

    def known(rows: Rows) -> Labelled:
        lesson = Lesson(images=exam.images, rows=rows, finetune=finetune)
        patients = exam.images.catalog.patients[rows]
        # Without validation patients there is nothing to embed, but still a width to agree on.
        found = features(rows) if len(rows) else features(exam.asked[:1])[:0]
        return Labelled(features=found, labels=lesson.labels, patients=patients)

    classes = len(finetune.classes or ())
    found = linear_probe(known(exam.learned), known(val), features(exam.asked), classes)
    chosen = {"scores_NK": found.val_scores}
    return decided({"scores_NK": found.scores}, chosen, replace(exam, asked=val))


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return ranking, deciding and calibration; also recall class by class."""
    scores_NK, labels_N = np.asarray(answers["scores_NK"], np.float64), truth(exam)
    several = labels_N.ndim == 2
    measures: Mapping[str, Measure] = FINDINGS if several else _measures(exam)
    found: dict[str, Weighed] = {
        name: partial(measure, scores_NK, labels_N) for name, measure in measures.items()
    }
    if "decided_NK" in answers:
        found |= reached(answers["decided_NK"], labels_N)
    if not several:
        for number, name in enumerate(_classes(exam)):
            found[f"recall of {name}"] = partial(_recall, scores_NK, labels_N, number)
    return found


def decided(answers: Answers, val: Answers, exam: Exam) -> Answers:
    """Return answers with what each class's threshold decides, chosen on validation images.

    *val* is what the same network answers for those of *exam*. As they are without any, and where
    they are no probabilities of classes.
    """
    if not len(exam.asked) or "scores_NK" not in val:
        return answers
    scores_NK = np.asarray(val["scores_NK"], np.float64)
    found = decisions(
        np.asarray(answers["scores_NK"], np.float64), thresholds(scores_NK, truth(exam))
    )
    return {**answers, "decided_NK": found}


def ranked(answers: Answers) -> Answers:
    """Return the place of each image in the list of each class."""
    scores_NK = np.asarray(answers["scores_NK"], np.float64)
    return {"scores_NK": np.stack([ranks(scores_N) for scores_N in scores_NK.T], axis=1)}


def truth(exam: Exam) -> NDArray[np.int64]:
    """Return classes (N,), or findings (N, K) where several may occur: 1, 0 or -1 (not known)."""
    if exam.run.finetune is None:
        return exam.images.catalog.labels[exam.asked]
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=exam.run.finetune)
    if exam.run.finetune.task.knobs.get("kind") == "multilabel":
        return np.nan_to_num(lesson.findings, nan=-1).astype(np.int64)
    return lesson.labels


def _measures(exam: Exam) -> Mapping[str, Measure]:
    knobs: Mapping[str, Any] = exam.run.finetune.task.knobs if exam.run.finetune else {}
    return ORDINAL if knobs.get("kind") == "ordinal" else MEASURES


def _classes(exam: Exam) -> tuple[str, ...]:
    return (exam.run.finetune.classes or ()) if exam.run.finetune is not None else ()


def _recall(
    scores_NK: Floats, labels_N: NDArray[np.int64], number: int, weights_DN: Floats
) -> Floats:
    """Return the share of a class's images that are told rightly; NaN without any."""
    ours_N = (labels_N == number).astype(np.float64)
    right_N = ours_N * (scores_NK.argmax(axis=1) == number)
    with np.errstate(invalid="ignore"):
        return np.asarray(weights_DN @ right_N / (weights_DN @ ours_N))
