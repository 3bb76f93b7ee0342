"""Judges an index: what test images find among those that were learned from.

Shapes: N images asked about, G images of the index, F features.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.paired import Weighed, weighed_mean
from confrere_client.evaluation.retrieval import retrieved
from confrere_client.finetune.judge import Answers, Exam, Features, Rows, collected
from confrere_client.finetune.lesson import Lesson
from confrere_client.measure.probe import Labelled
from confrere_common.errors import DataError
from confrere_common.task import FineTask

HEADLINE = "P@5"


def answers(task: FineTask, exam: Exam) -> Answers:
    """Return, for each image, how much of what it finds is of its class."""
    return _found(collected(exam, task.predict), collected(exam.reference, task.predict), exam)


def by_probe(features: Features, exam: Exam, val: Rows) -> Answers | None:  # noqa: ARG001
    """Return what fixed features find."""
    return _found(features(exam.asked), features(exam.learned), exam)


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:  # noqa: ARG001
    """Return means over queries."""
    return {name: weighed_mean(values) for name, values in answers.items()}


def ranked(answers: Answers) -> Answers:
    """Return the answers: each query is judged by itself."""
    return answers


def _found(asked_NF: NDArray[np.float32], index_GF: NDArray[np.float32], exam: Exam) -> Answers:
    queries, gallery = _labelled(asked_NF, exam), _labelled(index_GF, exam.reference)
    if exam.taught is not None:
        # Equal numbers are other patients there: a source refuses one who is in two of its parts.
        gallery = replace(gallery, patients=-1 - gallery.patients)
    found = retrieved(queries, gallery)
    precision = {f"P@{k}": values for k, values in found.precision.items()}
    return {**precision, "mAP": found.average_precision_Q, "mAP@R": found.average_precision_at_r_Q}


def _labelled(features_NF: NDArray[np.float32], exam: Exam) -> Labelled:
    if exam.run.finetune is None:
        raise DataError("the run fine-tunes nothing: it has no section finetune.")
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=exam.run.finetune)
    patients = exam.images.catalog.patients[exam.asked]
    return Labelled(features=features_NF, labels=lesson.labels, patients=patients)
