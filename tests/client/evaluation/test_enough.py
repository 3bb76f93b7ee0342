"""``enough.told_whole``: "Guarantee: the sides of each hold images of nobody or of *smallest*
patients at least; and where a side of one lies within a side of another, so does what the larger
has more than the smaller."
"""

import numpy as np
import pytest
from exams import boxed_exam, compared_exam, exam
from tiny_runs import tuning

from confrere_client.evaluation.enough import averaged, scorable, told_whole
from confrere_client.finetune.judge import Exam
from confrere_common.model import task_of

PATIENTS = np.arange(40)


def first(count: int) -> np.ndarray:
    return np.arange(len(PATIENTS)) < count


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (first(20), first(20), [0, 1]),
        (first(20), first(19), [0]),  # within it: one has the first alone
        (first(20), first(10), [0, 1]),
        (first(20), PATIENTS >= 21, [0]),  # apart from it: one has neither
        (first(20), PATIENTS >= 19, [0]),  # all have one of them: one has both
        (first(20), PATIENTS % 2 == 0, [0, 1]),
        (first(40), first(20), [0, 1]),
        (first(0), first(31), [0]),
        (first(9), first(20), [1]),
    ],
)
def test_of_two_structures_whose_difference_is_of_a_few_the_first_is_told(
    one: np.ndarray, other: np.ndarray, told: list[int]
) -> None:
    assert told_whole(np.stack([one, other], axis=1), PATIENTS, 10) == told


def test_many_images_of_few_patients_are_few() -> None:
    has = np.repeat([True, False], 20)[:, None]

    assert told_whole(has, np.repeat(np.arange(10), 4), 6) == []
    assert told_whole(has, np.repeat(np.arange(10), 4), 5) == [0]


def counted(asked: Exam, smallest: int) -> list[int]:
    task = task_of(asked.run)
    assert task is not None
    return scorable(task, asked.images, asked.asked, smallest).tolist()


def test_classes_of_few_patients_do_not_count_nor_does_a_class_alone() -> None:
    labels = ["a"] * 12 + ["b"] * 10 + ["c"] * 9
    asked = exam(labels, list(range(31)), ["a", "b", "c"], "multiclass")

    assert counted(asked, 9) == list(range(31))
    assert counted(asked, 10) == list(range(22))
    assert counted(asked, 11) == []


def test_findings_count_where_one_of_them_may_be_told_apart() -> None:
    labels = ["a|b"] * 8 + ["b"] * 12
    asked = exam(labels, list(range(20)), ["a", "b"], "multilabel")

    assert counted(asked, 8) == list(range(20))
    assert counted(asked, 9) == []  # all have b: there is nothing to tell it from


def test_boxes_count_where_enough_have_them_and_lack_them() -> None:
    drawn = [["cell"]] * 11 + [[]] * 10
    asked = boxed_exam(drawn, list(range(21)), ["cell"])

    assert counted(asked, 10) == list(range(21))
    assert counted(asked, 11) == []
    assert counted(boxed_exam(drawn[:11], list(range(11)), ["cell"]), 10) == []  # none lacks them


def test_images_count_where_enough_are_normal_and_enough_are_not() -> None:
    run = tuning("anomaly", knobs={"normal": "a"})
    test = [("a", n) for n in range(11)] + [("bc"[n % 2], 20 + n) for n in range(10)]
    asked = compared_exam(run, [("a", 99), ("b", 98)], test)

    assert counted(asked, 10) == asked.asked.tolist()  # of b and c together
    assert counted(asked, 11) == []
    assert counted(compared_exam(run, [("b", 99)], test), 10) == []  # none is normal but these


def test_searches_count_class_by_class_where_something_of_it_is_left_to_find() -> None:
    run = tuning("retrieval")
    test = [("a", n) for n in range(11)] + [("b", 20 + n) for n in range(10)] + [("c", 40)] * 3
    both, one = (compared_exam(run, left, test) for left in ([("a", 98), ("b", 99)], [("b", 99)]))

    assert counted(both, 10) == both.asked[:21].tolist()
    assert counted(both, 11) == both.asked[:11].tolist()
    assert counted(one, 10) == one.asked[11:21].tolist()


def led(asked: Exam, smallest: int) -> int:
    """Return of how many images the leading figure would be told."""
    task = task_of(asked.run)
    assert task is not None
    return len(averaged(task, asked.images, asked.asked, smallest))


def test_a_ranking_is_told_of_as_many_against_as_many() -> None:
    """``enough.averaged``: "Guarantee: it is a mean over *smallest* patients or more (Dice), or
    ranks as many against as many (areas, precision): a class of fewer takes no part, and where
    fewer have a finding, a box of a class or what is normal, or lack it, nothing is told."
    """
    classes = exam(
        ["a"] * 12 + ["b"] * 10 + ["c"] * 9, list(range(31)), ["a", "b", "c"], "multiclass"
    )
    rare = exam(["a"] * 10 + ["b"] * 10 + ["a|b"] * 9, list(range(29)), ["a", "b"], "multilabel")
    boxes = boxed_exam([["cell"]] * 11 + [[]] * 10, list(range(21)), ["cell"])

    assert [led(classes, smallest) for smallest in (9, 10, 11)] == [31, 22, 0]
    assert [led(rare, smallest) for smallest in (10, 11)] == [29, 0]  # ten have b alone
    assert [led(boxes, smallest) for smallest in (10, 11)] == [21, 0]


def test_boxes_are_ranked_among_boxes_and_all_images_may_have_some() -> None:
    every = boxed_exam([["cell"]] * 11, list(range(11)), ["cell"])

    assert [led(every, smallest) for smallest in (11, 12)] == [11, 0]
    assert led(boxed_exam([[]] * 11, list(range(11)), ["cell"]), 10) == 0


def test_what_all_have_or_nobody_has_ranks_nobody() -> None:
    assert led(exam(["a"] * 20, list(range(20)), ["a", "b"], "multilabel"), 10) == 0
    assert led(exam(["a"] * 20, list(range(20)), ["a", "b"], "multiclass"), 10) == 0


def test_many_images_of_few_patients_lead_to_nothing() -> None:
    few = exam(["a", "b"] * 20, [number % 9 for number in range(40)], ["a", "b"], "multiclass")

    assert led(few, 10) == 0
