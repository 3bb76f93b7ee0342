"""``pooling.bounds``: "Guarantee: the AUC over the very scores, ties counting half, lies between
them."
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from confrere_client.evaluation.shared import answer
from confrere_client.measure.intervals import Truth
from confrere_common.errors import ExchangeError
from confrere_server.pooling import area, bounds, pool, spread


def site(seed: int, images: int, skill: float, hotness: float = 1.0) -> tuple[np.ndarray, Truth]:
    """Return scores (N, 2) and the truth of a site, one image a patient."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(images) < 0.4).astype(np.int64)
    scores = expit(hotness * (generator.normal(size=images) + skill * (2 * labels - 1)))
    return np.stack([1 - scores, scores], axis=1), Truth(labels=labels, patients=np.arange(images))


def pooled(sites: list[tuple[np.ndarray, Truth]], smallest: int) -> tuple[Any, float]:
    """Return what is pooled of class 1, and the AUC over all scores at once."""
    answers = {str(n): answer(*each, smallest=smallest).as_dict() for n, each in enumerate(sites)}
    labels = np.concatenate([truth.labels for _, truth in sites])
    scores = np.concatenate([scores[:, 1] for scores, _ in sites])
    return pool(answers, 2)[1], float(roc_auc_score(labels, scores))


@given(
    seed=st.integers(0, 10**6),
    skill=st.floats(0, 3),
    hotness=st.floats(0.1, 6),
    smallest=st.integers(2, 20),
)
@settings(deadline=None, max_examples=60)
def test_the_exact_area_lies_within_the_stated_error(
    seed: int, skill: float, hotness: float, smallest: int
) -> None:
    sites = [site(seed + n, 120 + 40 * n, skill, hotness) for n in range(3)]

    found, exact = pooled(sites, smallest)

    assert abs(found.auc - exact) <= found.error + 1e-12
    # The wider of the two sides: it may reach below 0 or above 1, where no area is.
    assert 0 <= found.error <= 1


@pytest.mark.parametrize("skill", [0.3, 0.8, 1.5])
@pytest.mark.parametrize("hotness", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("humps", [False, True])
def test_it_is_far_closer_than_the_stated_error(skill: float, hotness: float, humps: bool) -> None:
    """Three hospitals of 300 patients with cells of 10 cost less than two points of AUC."""
    for seed in range(4):
        sites = [site(100 * seed + n, 300, skill, hotness) for n in range(3)]
        if humps:
            sites[1:] = [site(7 * seed + n, 300, 2 * skill, hotness) for n in range(2)]
            sites[0] = site(seed, 300, -skill / 2, hotness)

        found, exact = pooled(sites, 10)

        assert abs(found.auc - exact) < 0.02


def test_areas_are_worked_out_by_hand() -> None:
    # 10 positives above all; 10 positives among 20 negatives in the same range.
    positives, negatives = [(0, 4, 10), (8, 9, 10)], [(0, 4, 20)]
    even_up, even_down = np.zeros((2, 128))
    even_up[:4], even_up[8], even_down[:4] = 2.5, 10, 5

    assert bounds(positives, negatives) == pytest.approx((0.5, 1))
    assert area(even_up, even_down) == pytest.approx(0.75)


def test_counts_that_wrap_around_whole_numbers_do_not_void_an_area() -> None:
    cells = [(step, step + 1, 2**29) for step in range(8)]

    low, high = bounds(cells, cells)

    assert 0 <= low <= 0.5 <= high <= 1


def test_images_stay_in_their_cells_and_lean_to_where_the_others_are() -> None:
    cells = [(0, 60, 12), (60, 64, 40), (64, 128, 12)]

    images_E = spread(cells)

    assert [images_E[a:b].sum() for a, b, _ in cells] == pytest.approx([12, 40, 12])
    assert images_E[50:60].sum() > 10
    assert images_E[64:74].sum() > 10
    assert spread([]).sum() == 0


def test_the_curves_are_those_of_all_images() -> None:
    sites = [site(n, 400, 1.0) for n in range(2)]

    found, _ = pooled(sites, 10)

    assert (found.sensitivity[0], found.sensitivity[-1]) == pytest.approx((0, 1))
    assert (found.false_alarms[0], found.false_alarms[-1]) == pytest.approx((0, 1))
    area = np.diff(found.false_alarms) @ (found.sensitivity[1:] + found.sensitivity[:-1]) / 2
    assert area == pytest.approx(found.auc)
    assert found.positives + found.negatives == 800
    assert found.sites == ("0", "1")


@pytest.mark.parametrize("hotness", [1.0, 3.0])
def test_calibration_is_near_that_of_the_very_scores(hotness: float) -> None:
    """Scores that are drawn to be honest have little error; made surer than they are, they have."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=3000)
    labels = (generator.random(3000) < expit(logits)).astype(np.int64)
    scores = expit(hotness * logits)
    truth = Truth(labels=labels, patients=np.arange(3000))

    told = answer(np.stack([1 - scores, scores], axis=1), truth).as_dict()
    found = pool({"only": told}, 2)[1]

    bars = np.minimum((scores * 15).astype(int), 14)
    due = sum(abs((scores - labels)[bars == bar].sum()) for bar in range(15)) / 3000
    assert found.calibration_error == pytest.approx(due, abs=0.02)
    assert (found.calibration_error > 0.1) == (hotness > 1)


def test_a_site_that_tells_nothing_takes_no_part() -> None:
    large, small = site(0, 200, 1.0), site(1, 12, 1.0)
    answers = {"large": answer(*large).as_dict(), "small": answer(*small).as_dict()}

    assert pool(answers, 2)[1].sites == ("large",)
    assert pool({"small": answers["small"]}, 2) == {}
    assert pool({}, 2) == {}


@pytest.mark.parametrize(
    "plain",
    [
        {},
        [],
        None,
        {"classes": 3, "tallies": []},
        {"classes": 2, "tallies": 3},
        {"classes": 2, "tallies": [{"kind": 1}]},
        {"classes": 2, "tallies": [{"kind": 1, "positives": [], "negatives": []}] * 2},
    ],
)
def test_an_unsound_answer_is_told_with_its_site(plain: Any) -> None:
    with pytest.raises(ExchangeError, match="the evaluation of site 'liar'"):
        pool({"liar": plain}, 2)
