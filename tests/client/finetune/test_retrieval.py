"""What a query finds among the images learned from: its own patient's are not there for it."""

from dataclasses import replace

import numpy as np
import pytest
from exams import compared_exam, noisy
from tiny_runs import tuning

from confrere_client.finetune import retrieval
from confrere_client.finetune.judge import Exam
from confrere_common.model import build_model
from confrere_common.task import FineTask

RUN = tuning("retrieval", classes=["a", "b"])


def found(exam: Exam) -> list[float]:
    task = build_model(RUN, seed=0)
    assert isinstance(task, FineTask)
    return np.asarray(retrieval.answers(task.eval(), exam)["P@5"]).tolist()


def test_a_patient_s_own_images_are_not_searched() -> None:
    learned = [("a", 1), ("b", 2), ("b", 3)]

    mine, others = (compared_exam(RUN, learned, [("a", patient)]) for patient in (1, 4))

    assert np.isnan(found(mine)).all()  # the one image of its class is of the same patient
    assert found(others) == pytest.approx([1 / 3])


def test_in_another_data_set_equal_numbers_are_other_patients() -> None:
    learned = [("a", 1), ("b", 2), ("b", 3)]
    exam = compared_exam(RUN, learned, [("a", 4)])
    test = noisy([("a", 9)], seed=1)
    assert test.catalog.patients[0] == exam.images.catalog.patients[0]

    apart = replace(exam, images=test, asked=np.arange(1), taught=exam.images)

    assert found(apart) == pytest.approx([1 / 3])


def test_classes_are_the_run_s_whatever_each_data_set_calls_first() -> None:
    exam = compared_exam(RUN, [("a", 1), ("b", 2)], [])
    test = noisy([("b", 9)])  # its only class: number 0 there

    apart = replace(exam, images=test, asked=np.arange(1), taught=exam.images)

    assert found(apart) == pytest.approx([1 / 2])
