"""``federated.told``: "Guarantee: that of ``shared.answer`` for exclusive classes; findings and
structures are told of whole, and only as ``enough.told_whole`` allows: each count is of *smallest*
patients at least, all add up to the same images, and so does what the side of one has more than
that of another that lies within it. What is normal is told of as one finding. Of searches, held-out
images of a class of fewer patients change nothing that leaves, and those of a class that are left
out, as they have nothing to find, are of nobody or of *smallest* patients at least."
"""

from itertools import product

import numpy as np
import pytest
from exams import boxed_exam, compared_exam, exam
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from tiny_runs import tuning

from confrere_client.evaluation.federated import told
from confrere_client.finetune.judge import Answers
from confrere_common.describe import MOST_TEXT
from confrere_common.judged import read_evaluation
from confrere_common.tally import step_of


@given(seed=st.integers(0, 200), smallest=st.integers(2, 12))
@settings(deadline=None, max_examples=25)
def test_every_count_of_each_finding_is_of_enough_patients(seed: int, smallest: int) -> None:
    generator = np.random.default_rng(seed)
    names = generator.choice(["oedema", "effusion", "oedema|effusion", "none"], 90).tolist()
    patients = generator.integers(0, 45, 90)
    asked = exam(names, patients.tolist(), ["effusion", "oedema"], "multilabel")
    scores = generator.random((90, 2))

    plain = read_evaluation(told({"scores_NK": scores}, asked, smallest=smallest), 2, smallest)

    for one in plain["tallies"]:
        finding = ["effusion", "oedema"][one["kind"]]
        has = np.array([finding in name for name in names])
        step_N = step_of(scores[:, one["kind"]])
        for cells, mine in ((one["positives"], has), (one["negatives"], ~has)):
            for first, after, images in cells:
                inside = mine & (first <= step_N) & (step_N < after)
                assert images == inside.sum()
                assert len(np.unique(patients[inside])) >= smallest


@given(seed=st.integers(0, 200), smallest=st.integers(2, 12))
@settings(deadline=None, max_examples=25)
def test_every_count_of_each_structure_is_of_enough_patients(seed: int, smallest: int) -> None:
    generator = np.random.default_rng(seed)
    patients = generator.integers(0, 45, 90)
    asked = exam(["x"] * 90, patients.tolist(), ["x"], "multiclass")
    lacks = generator.random((90, 2)) < 0.3
    dice = np.where(lacks, generator.random((90, 2)) < 0.5, generator.beta(4, 2, (90, 2)))
    answers: Answers = {"dice_NC": dice, "empty_NC": lacks}

    plain = read_evaluation(told(answers, asked, smallest=smallest), 2, smallest)

    assert plain["tallies"]
    for one in plain["tallies"]:
        step_N = step_of(dice[:, one["kind"]])
        without = lacks[:, one["kind"]]
        for cells, mine in ((one["positives"], ~without), (one["negatives"], without)):
            for first, after, images in cells:
                inside = mine & (first <= step_N) & (step_N < after)
                assert images == inside.sum()
                assert len(np.unique(patients[inside])) >= smallest


@given(seed=st.integers(0, 200), smallest=st.integers(2, 12))
@settings(deadline=None, max_examples=15)
def test_every_count_of_surest_boxes_is_of_enough_patients(seed: int, smallest: int) -> None:
    generator = np.random.default_rng(seed)
    patients = generator.integers(0, 45, 90)
    drawn = [generator.choice(["cell", "platelet"], generator.integers(0, 4)) for _ in range(90)]
    asked = boxed_exam([list(names) for names in drawn], patients.tolist(), ["platelet", "cell"])
    found = np.full((90, 6, 6), np.nan)  # a box's four ends, its score, its class
    found[:, :4, -2] = generator.random((90, 4))
    found[:, :4, -1] = generator.integers(0, 2, (90, 4))

    plain = read_evaluation(told({"found_NQ": found}, asked, smallest=smallest), 2, smallest)

    assert plain["tallies"]
    for one in plain["tallies"]:
        mine = np.array([["platelet", "cell"][one["kind"]] in names for names in drawn])
        sure = np.where(found[..., -1] == one["kind"], found[..., -2], 0).max(axis=1)
        for cells, side in ((one["positives"], mine), (one["negatives"], ~mine)):
            assert sum(n for *_, n in cells) == side.sum()
            for first, after, images in cells:
                inside = side & (first <= step_of(sure)) & (step_of(sure) < after)
                assert images == inside.sum()
                assert len(np.unique(patients[inside])) >= smallest


NORMAL = tuning("anomaly", knobs={"normal": "b"})
SEARCHED = tuning("retrieval")


@given(seed=st.integers(0, 200), smallest=st.integers(2, 12))
@settings(deadline=None, max_examples=25)
def test_of_how_normal_images_look_one_tally_is_told(seed: int, smallest: int) -> None:
    generator = np.random.default_rng(seed)
    known = [("abc"[generator.integers(3)], int(generator.integers(45))) for _ in range(90)]
    asked, scores = compared_exam(NORMAL, [], known), generator.random(90)

    text = told({"normality_N": scores}, asked, smallest=smallest)

    (one,) = read_evaluation(text, 3, smallest)["tallies"]
    assert one["kind"] == 1
    patients, step_N = np.array([patient for _, patient in known]), step_of(scores)
    normal_N = np.array([label == "b" for label, _ in known])
    for cells, side in ((one["positives"], normal_N), (one["negatives"], ~normal_N)):
        assert sum(n for *_, n in cells) == side.sum()
        for first, after, images in cells:
            inside = side & (first <= step_N) & (step_N < after)
            assert images == inside.sum()
            assert len(np.unique(patients[inside])) >= smallest


@pytest.mark.parametrize(("normal", "other"), [(9, 31), (31, 9), (40, 0), (0, 40)])
def test_where_few_are_normal_or_few_are_not_nothing_is_told(normal: int, other: int) -> None:
    asked = compared_exam(NORMAL, [], [("b" if n < normal else "a", n) for n in range(40)])

    text = told({"normality_N": np.linspace(0, 1, normal + other)}, asked, smallest=10)

    assert read_evaluation(text, 3, 10)["tallies"] == []


@given(seed=st.integers(0, 10**6), smallest=st.integers(2, 12), lost=st.floats(0, 0.6))
@settings(deadline=None, max_examples=60)
def test_no_search_that_finds_nothing_is_given_away_by_those_that_do(
    seed: int, smallest: int, lost: float
) -> None:
    """Guarantee: "those of a class that are left out, as they have nothing to find, are of nobody
    or of *smallest* patients at least".
    """
    generator = np.random.default_rng(seed)
    known = [("abc"[generator.integers(3)], int(generator.integers(60))) for _ in range(90)]
    found = generator.integers(0, 6, 90) / 5
    found[generator.random(90) < lost] = np.nan
    asked = compared_exam(SEARCHED, [], known)

    text = told({"P@5": found}, asked, smallest=smallest)

    patients, labels = np.array([p for _, p in known]), np.array([label for label, _ in known])
    for one in read_evaluation(text, 3, smallest)["tallies"]:
        mine, kept = labels == "abc"[one["kind"]], ~np.isnan(found)
        assert sum(n for *_, n in one["positives"]) == (mine & kept).sum()
        assert one["negatives"] == []
        assert len(np.unique(patients[mine & ~kept])) not in range(1, smallest)
        for first, after, images in one["positives"]:
            inside = mine & kept & (first <= step_of(found)) & (step_of(found) < after)
            assert images == inside.sum()
            assert len(np.unique(patients[inside])) >= smallest


@pytest.mark.parametrize(
    ("lost", "kinds"), [(0, [0, 1]), (9, [1]), (10, [0, 1]), (21, [1]), (30, [1])]
)
def test_a_class_of_which_a_few_find_nothing_is_not_told_of(lost: int, kinds: list[int]) -> None:
    known = [("a" if n < 30 else "b", n) for n in range(60)]
    found = np.full(60, 0.4)
    found[:lost] = np.nan

    text = told({"P@5": found}, compared_exam(SEARCHED, [], known), smallest=10)

    assert [one["kind"] for one in read_evaluation(text, 3, 10)["tallies"]] == kinds


def test_held_out_images_of_a_class_of_few_patients_change_nothing_that_leaves() -> None:
    known = [("ab"[n % 2], n) for n in range(40)] + [("c", 40 + n) for n in range(9)]
    found = np.random.default_rng(0).integers(0, 6, 49) / 5

    whole = told({"P@5": found}, compared_exam(SEARCHED, [], known), smallest=10)
    without = told({"P@5": found[:40]}, compared_exam(SEARCHED, [], known[:40]), smallest=10)

    assert whole == without
    assert len(read_evaluation(whole, 3, 10)["tallies"]) == 2


@pytest.mark.parametrize("few", [slice(None, 9), slice(9, None)])
def test_a_structure_that_few_patients_have_or_lack_is_not_told_of(few: slice) -> None:
    asked = exam(["x"] * 40, list(range(40)), ["x"], "multiclass")
    lacks = np.ones((40, 2), bool)
    lacks[few, 0] = False
    lacks[:20, 1] = False
    answers: Answers = {"dice_NC": lacks.astype(np.float64), "empty_NC": lacks}

    (one,) = read_evaluation(told(answers, asked, smallest=10), 2, 10)["tallies"]

    assert one["kind"] == 1  # its forty images less 31 would be the nine


def test_of_an_organ_and_a_lesion_in_nearly_all_who_have_it_one_alone_is_told_of() -> None:
    asked = exam(["x"] * 60, list(range(60)), ["x"], "multiclass")
    lacks = np.arange(60)[:, None] >= np.array([31, 30, 20])  # one has the organ without the lesion
    answers: Answers = {"dice_NC": lacks.astype(np.float64), "empty_NC": lacks}

    tallies = read_evaluation(told(answers, asked, smallest=10), 3, 10)["tallies"]

    assert [one["kind"] for one in tallies] == [0, 2]


@given(
    seed=st.integers(0, 10**6),
    smallest=st.integers(2, 12),
    kind=st.sampled_from(["structures", "findings"]),
)
@settings(deadline=None, max_examples=60)
def test_no_difference_of_what_is_told_is_of_a_few_patients(
    seed: int, smallest: int, kind: str
) -> None:
    """Guarantee: "all add up to the same images, and so does what the side of one has more than
    that of another that lies within it."
    """
    generator = np.random.default_rng(seed)
    patients = generator.integers(0, 40, 60)
    has = generator.random((60, 5)) < generator.choice([0.02, 0.1, 0.3, 0.5, 0.9, 0.98], 5)
    has[:, 1] &= has[:, 0]  # as a lesion lies in an organ
    has[:, 4] |= ~has[:, 3]
    names = [f"f{n}" for n in range(5)]
    labels = ["|".join(n for n, mine in zip(names, row, strict=True) if mine) for row in has]
    asked = exam([label or "none" for label in labels], patients.tolist(), names, "multilabel")
    scores = generator.random((60, 5))
    answers: Answers = {"dice_NC": scores, "empty_NC": ~has}
    if kind == "findings":
        answers = {"scores_NK": scores}

    tallies = read_evaluation(told(answers, asked, smallest=smallest), 5, smallest)["tallies"]

    sides = []
    for one in tallies:
        mine = has[:, one["kind"]]
        for cells, inside in ((one["positives"], mine), (one["negatives"], ~mine)):
            assert sum(n for *_, n in cells) == inside.sum()  # so nothing is left out of a total
            sides.append(inside)
    for large, small in product([*sides, np.ones(60, bool)], sides):
        if not (small & ~large).any():  # a difference of two counts is then a count
            assert len(np.unique(patients[large & ~small])) not in range(1, smallest)


def test_many_classes_are_told_in_larger_cells_rather_than_in_too_long_a_text() -> None:
    classes = [f"c{n:02d}" for n in range(40)]
    labels, patients = classes * 60, list(range(40 * 60))
    scores = softmax(np.random.default_rng(0).normal(0, 3, (len(labels), 40)), axis=1)
    answers: Answers = {"scores_NK": scores}

    text = told(answers, exam(labels, patients, classes, "multiclass"), smallest=2)

    assert len(text) <= MOST_TEXT
    assert read_evaluation(text, 40, 2)["smallest"] > 2


@pytest.mark.parametrize("smallest", [5, 30])
def test_a_site_of_few_patients_tells_of_nothing(smallest: int) -> None:
    asked = exam(["a"] * 4 + ["b"] * 4, list(range(8)), ["a", "b"], "multiclass")
    answers: Answers = {"scores_NK": np.full((8, 2), 0.5)}

    plain = read_evaluation(told(answers, asked, smallest=smallest), 2, smallest)

    assert plain["tallies"] == []
