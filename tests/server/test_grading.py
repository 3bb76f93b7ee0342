"""A mean known from cells: the very values' mean lies between the bounds that are told.

``graded``: "Guarantee: the mean over the very values lies between ``low`` and ``high``."
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tuning

from confrere_client.halving import cells
from confrere_common.errors import ExchangeError
from confrere_common.tally import STEPS, step_of
from confrere_server.grading import graded, together

RUN = tuning("segmentation", knobs={"width": 4}, classes=["tumour", "oedema"])


@given(
    seed=st.integers(0, 10**6),
    a=st.floats(0.3, 9),
    b=st.floats(0.3, 9),
    smallest=st.integers(2, 20),
)
@settings(deadline=None, max_examples=80)
def test_the_exact_mean_lies_between_the_stated_bounds(
    seed: int, a: float, b: float, smallest: int
) -> None:
    generator = np.random.default_rng(seed)
    sites = [generator.beta(a, b, 40 + 20 * n) for n in range(3)]
    sites[0][:9], sites[1][:5] = 0.0, 1.0
    told = [cell for one in sites for cell in cells(step_of(one), np.arange(len(one)), smallest)]

    found = graded(told)

    assert found is not None
    assert found.images == sum(map(len, sites))
    exact = np.concatenate(sites).mean()
    assert found.low - 1e-12 <= exact <= found.high + 1e-12
    assert abs(found.mean - exact) <= found.error + 1e-12
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_it_is_far_closer_than_the_stated_error() -> None:
    """Three hospitals of 200 patients with cells of 10 cost less than two points of Dice."""
    for seed in range(6):
        generator = np.random.default_rng(seed)
        sites = [generator.beta(6 - n, 2, 200) for n in range(3)]
        told = [cell for one in sites for cell in cells(step_of(one), np.arange(200), 10)]

        found = graded(told)

        assert found is not None
        assert abs(found.mean - np.concatenate(sites).mean()) < 0.02


@pytest.mark.parametrize(("patients", "bias"), [(12, 0.15), (15, 0.16), (20, 0.13), (25, 0.03)])
def test_few_patients_and_missed_lesions_mislead_little_and_the_bounds_hold(
    patients: int, bias: float
) -> None:
    """Cells of 10 hide much of so few; what is missed, at 0, makes a second heap."""
    off = []
    for seed in range(40):
        generator = np.random.default_rng([patients, seed])
        missed = generator.random((3, patients)) < 0.2
        dice = np.where(missed, 0, generator.beta(12, 3, (3, patients)))
        told = [cell for one in dice for cell in cells(step_of(one), np.arange(patients), 10)]

        found = graded(told)

        assert found is not None
        assert found.low <= dice.mean() <= found.high
        assert abs(found.mean - dice.mean()) <= found.error
        off.append(found.mean - dice.mean())
    assert abs(np.mean(off)) < bias


def test_of_twelve_patients_in_one_cell_nothing_is_made_up() -> None:
    found = graded([(0, STEPS, 12)])

    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0, 0.5, 1))


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), smallest=st.integers(2, 20))
@settings(deadline=None, max_examples=60)
def test_shares_of_images_left_alone_lie_between_their_bounds(
    seed: int, share: float, smallest: int
) -> None:
    generator = np.random.default_rng(seed)
    sites = [(generator.random(20 + 20 * n) < share).astype(float) for n in range(3)]
    told = [cell for one in sites for cell in cells(step_of(one), np.arange(len(one)), smallest)]

    found = graded(told, whole=True)

    assert found is not None
    exact = np.concatenate(sites).mean()
    assert found.low <= exact <= found.high
    assert found.high - found.low <= graded(told).error * 2 + 1e-12  # type: ignore[union-attr]
    assert found.low <= found.mean <= found.high


def test_a_cell_of_the_ones_alone_leaves_no_doubt_and_a_false_one_no_nonsense() -> None:
    ones, false = graded([(512, STEPS, 12)], whole=True), graded([(5, 6, 12)], whole=True)

    assert ones is not None
    assert false is not None
    assert (ones.low, ones.mean, ones.high) == (1, 1, 1)
    assert (false.low, false.high) == (0, 1)
    assert 0 <= false.mean <= 1


def test_without_cells_there_is_no_mean() -> None:
    assert graded([]) is None


def answer(*tallies: dict[str, Any], classes: int = 2) -> dict[str, Any]:
    return {"classes": classes, "smallest": 10, "tallies": list(tallies)}


def test_sites_are_put_together_and_each_stands_alone_too() -> None:
    half = int(step_of(np.array([0.5]))[0])
    low, high = [0, half, 10], [half, STEPS, 30]
    north = answer({"kind": 0, "positives": [low, high], "negatives": []})
    south = answer({"kind": 0, "positives": [high], "negatives": [[STEPS - 1, STEPS, 12]]})

    found = together({"north": north, "south": south, "west": "policy-evaluation"}, RUN)

    (tumour,) = found["structures"]
    assert (tumour["name"], tumour["sites"]) == ("tumour", ["north", "south"])
    assert (tumour["images"], tumour["without"]) == (70, 12)
    assert tumour["alone"] == tumour["alone_low"] == 1
    assert tumour["low"] < tumour["dice"] < tumour["high"]
    assert found["dice"] == tumour["dice"]
    assert found["sites"]["south"]["dice"] > found["sites"]["north"]["dice"]
    assert found["sites"]["south"]["images"] == 42
    assert found["sites"]["west"] == {"refused": "policy-evaluation"}


def test_who_told_of_too_few_is_there_without_a_figure() -> None:
    found = together({"north": answer()}, RUN)

    assert "dice" not in found
    assert found["structures"] == []
    assert found["sites"]["north"] == {"smallest": 10, "images": 0}


def test_an_unsound_answer_is_named() -> None:
    with pytest.raises(ExchangeError, match="of site 'north'"):
        together({"north": answer(classes=3)}, RUN)


SEARCHED = tuning("retrieval", classes=["a", "b"])


def searched(*sites: list[float]) -> dict[str, Any]:
    """Return what a site tells of searches for each class, one query a patient."""
    return answer(
        *(
            {"kind": kind, "positives": [list(c) for c in found], "negatives": []}
            for kind, values in enumerate(sites)
            if (found := cells(step_of(np.array(values)), np.arange(len(values)), 10))
        )
    )


@given(seed=st.integers(0, 10**6), shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
@settings(deadline=None, max_examples=40)
def test_searches_of_sites_pool_to_the_exact_p_at_5_within_the_bounds(
    seed: int, shares: list[float]
) -> None:
    generator = np.random.default_rng(seed)
    north, south = (
        [generator.binomial(5, share, 40).astype(float) / 5 for share in of]
        for of in (shares[:2], shares[2:])
    )

    found = together(
        {"north": searched(*map(list, north)), "south": searched(*map(list, south))}, SEARCHED
    )

    assert "dice" not in found
    for one, *values in zip(found["queries"], north, south, strict=True):
        exact = np.concatenate(values).mean()
        assert one["images"] == 80
        assert one["low"] - 1e-9 <= exact <= one["high"] + 1e-9
        assert abs(one["precision"] - exact) <= one["error"] + 1e-9
    mean = np.mean([np.concatenate(pair).mean() for pair in zip(north, south, strict=True)])
    assert abs(found["precision"] - mean) <= found["error"] + 1e-9
    assert found["sites"]["south"]["images"] == 80  # queries of both classes


def test_a_class_that_no_site_tells_of_is_not_there() -> None:
    found = together({"north": searched([0.4] * 12, [1.0] * 9)}, SEARCHED)

    assert [one["name"] for one in found["queries"]] == ["a"]
    assert found["queries"][0].keys() == {
        "name", "sites", "images", "precision", "error", "low", "high"
    }  # fmt: skip
