"""Tallies come over a network: what is no tally is refused."""

from typing import Any

import numpy as np
import pytest

from confrere_common.errors import ExchangeError
from confrere_common.tally import EDGES, STEPS, read_tally, step_of

PLAIN = {"kind": 1, "positives": [[0, 4, 12], [7, 128, 30]], "negatives": [[0, 128, 99]]}


def test_the_grid_spans_all_scores_and_only_rises() -> None:
    assert (EDGES[0], EDGES[-1], len(EDGES)) == (0, 1, STEPS + 1)
    assert (np.diff(EDGES) > 0).all()


def test_each_score_lies_in_its_step() -> None:
    scores = np.append(np.random.default_rng(0).random(500), [0, 1, *EDGES])

    steps = step_of(scores)

    assert (EDGES[steps] <= scores).all()
    assert (scores[scores < 1] < EDGES[steps[scores < 1] + 1]).all()
    assert steps.max() == STEPS - 1


def test_a_tally_is_read_as_it_was_written() -> None:
    assert read_tally(PLAIN, 2).as_dict() == PLAIN


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 2},
        {"kind": True},
        {"kind": "1"},
        {"positives": [[0, 4, 0]]},
        {"positives": [[0, 4, -5]]},
        {"positives": [[0, 4, 1.5]]},
        {"positives": [[0, 4, 10**12]]},
        {"positives": [[4, 4, 9]]},
        {"positives": [[0, STEPS + 1, 9]]},
        {"positives": [[-1, 3, 9]]},
        {"positives": [[0, 5, 9], [4, 8, 9]]},
        {"positives": [[0, 5]]},
        {"positives": [3]},
        {"positives": None},
        {"negatives": [[n, n + 1, 1] for n in range(STEPS)] * 2},
        {"negatives": "many"},
        {"positives": [], "negatives": []},
    ],
)
def test_what_is_no_tally_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ExchangeError):
        read_tally({**PLAIN, **change}, 2)


def test_a_missing_part_is_refused() -> None:
    with pytest.raises(ExchangeError, match="another version"):
        read_tally({"kind": 1}, 2)
