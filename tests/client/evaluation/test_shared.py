"""``shared.answer``: "Guarantee: every count that leaves is of images of at least *smallest*
patients, no two counts of a tally share an image, and images of a class of fewer patients change
nothing that leaves."
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from confrere_client.evaluation.shared import answer
from confrere_client.halving import cells
from confrere_client.measure.intervals import Truth
from confrere_common.errors import DataError
from confrere_common.tally import STEPS, read_tally, step_of


def drawn(seed: int, classes: int, images: int = 150) -> tuple[np.ndarray, Truth]:
    """Return probabilities and a truth with classes of very different sizes."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, size=images, p=softmax(-1.3 * np.arange(classes)))
    hotness = generator.choice([0.3, 1, 4])
    logits = generator.normal(size=(images, classes)) + 2 * np.eye(classes)[labels]
    patients = generator.integers(images // 2, size=images)
    return softmax(hotness * logits, axis=1), Truth(labels=labels, patients=patients)


@given(seed=st.integers(0, 500), classes=st.integers(2, 5), smallest=st.integers(2, 15))
@settings(deadline=None, max_examples=60)
def test_no_cell_holds_few_patients_or_overlaps_another(
    seed: int, classes: int, smallest: int
) -> None:
    scores, truth = drawn(seed, classes)

    told = answer(scores, truth, smallest=smallest)

    spoken = [kind for kind in range(classes) if patients_of(truth, kind) >= smallest]
    kept = np.isin(truth.labels, spoken)
    for tally in told.tallies:
        mine = truth.labels == tally.kind
        step_N = step_of(scores[:, tally.kind])
        for side, rows in ((tally.positives, mine), (tally.negatives, ~mine)):
            reached = 0
            for first, after, images in side:
                inside = rows & kept & (first <= step_N) & (step_N < after)
                assert images == inside.sum()
                assert len(np.unique(truth.patients[inside])) >= smallest
                assert first >= reached
                reached = after
            assert sum(cell[2] for cell in side) == (rows & kept).sum()


def patients_of(truth: Truth, kind: int) -> int:
    return len(np.unique(truth.patients[truth.labels == kind]))


@given(seed=st.integers(0, 500), smallest=st.integers(2, 30))
@settings(deadline=None, max_examples=40)
def test_the_images_of_a_small_class_change_nothing(seed: int, smallest: int) -> None:
    scores, truth = drawn(seed, 4)
    small = [kind for kind in range(4) if patients_of(truth, kind) < smallest]
    without = np.flatnonzero(~np.isin(truth.labels, small))

    assert answer(scores, truth, smallest=smallest) == answer(
        scores[without], truth.at(without), smallest=smallest
    )


def test_a_site_with_one_class_or_few_patients_says_nothing() -> None:
    scores, truth = drawn(0, 2)
    alone = np.flatnonzero(truth.labels == 0)

    assert answer(scores[alone], truth.at(alone)).tallies == ()
    assert answer(scores[:8], truth.at(np.arange(8))).tallies == ()


def test_of_two_classes_one_is_told() -> None:
    scores, truth = drawn(0, 2)

    (tally,) = answer(scores, truth).tallies

    assert tally.kind == 1


def test_what_leaves_is_plain_and_read_back_the_same() -> None:
    scores, truth = drawn(1, 3)
    told = answer(scores, truth, smallest=5)

    plain = json.loads(json.dumps(told.as_dict()))

    assert set(plain) == {"classes", "smallest", "tallies"}
    assert tuple(read_tally(each, 3) for each in plain["tallies"]) == told.tallies


def test_scores_that_crowd_are_still_told_apart() -> None:
    """A sure classifier scores near 0 and 1: the grid is fine there, and many patients part it."""
    scores, patients = np.random.default_rng(0).beta(0.1, 8, size=2000), np.arange(2000)

    found = cells(step_of(scores), patients, 10)

    assert len(found) > 30


def test_few_patients_with_many_images_are_few() -> None:
    steps, patients = np.arange(100) * (STEPS // 100), np.repeat(np.arange(4), 25)

    assert cells(steps, patients, 5) == ()
    assert cells(steps, patients, 4) == ((0, STEPS, 100),)


def test_one_patient_far_from_all_others_is_not_alone() -> None:
    steps, patients = np.append(np.zeros(20, int), STEPS - 1), np.arange(21)

    assert cells(steps, patients, 10) == ((0, STEPS, 21),)


@pytest.mark.parametrize("smallest", [0, 1, -3])
def test_cells_of_one_patient_are_refused(smallest: int) -> None:
    scores, truth = drawn(0, 2)

    with pytest.raises(DataError, match="would show a single one"):
        answer(scores, truth, smallest=smallest)


def test_logits_are_refused() -> None:
    _, truth = drawn(0, 2)

    with pytest.raises(DataError, match="are no probabilities"):
        answer(np.random.default_rng(0).normal(size=(150, 2)), truth)
