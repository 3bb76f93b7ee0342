"""A mean known from cells: the very values' mean lies within the error that is told.

Guarantee: the mean over the very values lies within ``error`` of ``mean``.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tuning

from confrere_client.evaluation.shared import cells
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
def test_the_exact_mean_lies_within_the_stated_error(
    seed: int, a: float, b: float, smallest: int
) -> None:
    generator = np.random.default_rng(seed)
    sites = [generator.beta(a, b, 40 + 20 * n) for n in range(3)]
    sites[0][:9], sites[1][:5] = 0.0, 1.0
    told = [cell for one in sites for cell in cells(step_of(one), np.arange(len(one)), smallest)]

    found = graded(told)

    assert found is not None
    assert found.images == sum(map(len, sites))
    assert abs(found.mean - np.concatenate(sites).mean()) <= found.error + 1e-12
    assert 0 <= found.mean <= 1


def test_it_is_far_closer_than_the_stated_error() -> None:
    """Three hospitals of 200 patients with cells of 10 cost less than a point of Dice."""
    for seed in range(6):
        generator = np.random.default_rng(seed)
        sites = [generator.beta(6 - n, 2, 200) for n in range(3)]
        told = [cell for one in sites for cell in cells(step_of(one), np.arange(200), 10)]

        found = graded(told)

        assert found is not None
        assert abs(found.mean - np.concatenate(sites).mean()) < 0.01


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
    assert tumour["alone"] > 0.999
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
