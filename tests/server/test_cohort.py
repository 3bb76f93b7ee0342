"""A cohort is drawn fairly, and anew the same; a quorum is counted up."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import RoundError
from confrere_server.cohort import draw_cohort, needed

SITES = ("basel", "ghent", "lyon", "porto", "turin")

names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12, unique=True)
shares = st.floats(0.01, 1)


@given(sites=names, share=shares, round=st.integers(1, 1000), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_a_cohort_is_some_of_the_sites_each_once_in_order(
    sites: list[str], share: float, round: int, seed: int
) -> None:
    cohort = draw_cohort(sites, share, round, seed)

    assert 1 <= len(cohort) <= len(sites)
    assert len(cohort) >= share * len(sites) - 1e-6
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= set(sites)


@given(sites=names, share=shares, dice=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_sites_does_not_matter(
    sites: list[str], share: float, dice: Random
) -> None:
    shuffled = dice.sample(sites, len(sites))

    assert draw_cohort(sites, share, 3, 7) == draw_cohort(shuffled, share, 3, 7)


def test_the_draw_is_the_same_on_every_machine_and_in_every_version() -> None:
    drawn = [draw_cohort(SITES, 0.4, round, seed=0) for round in (1, 2, 3)]

    assert drawn == [("ghent", "porto"), ("ghent", "lyon"), ("ghent", "lyon")]


def test_rounds_and_seeds_draw_differently() -> None:
    by_round = {draw_cohort(SITES, 0.4, round, seed=0) for round in range(40)}
    by_seed = {draw_cohort(SITES, 0.4, 1, seed=seed) for seed in range(40)}

    assert len(by_round) > 5
    assert len(by_seed) > 5


def test_every_pair_of_sites_is_equally_likely() -> None:
    drawn = Counter(draw_cohort(SITES, 0.4, round, seed=1) for round in range(4000))

    # Ten pairs, each expected 400 times with a standard deviation of 19.
    assert len(drawn) == 10
    assert all(300 < times < 500 for times in drawn.values())


@pytest.mark.parametrize(("share", "size"), [(0.01, 1), (0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_a_share_is_rounded_up(share: float, size: int) -> None:
    assert len(draw_cohort(SITES, share, 1, seed=0)) == size


def test_no_site_is_an_error() -> None:
    with pytest.raises(RoundError, match="no site takes part"):
        draw_cohort([], 0.5, 1, seed=0)


@pytest.mark.parametrize(
    ("asked", "quorum", "due"),
    [
        (10, 0.5, 5),
        (9, 0.5, 5),
        (3, 1.0, 3),
        (100, 0.07, 7),
        (5, 0.0, 1),
        (0, 0.5, 1),
        (3, 0.67, 3),
    ],
)
def test_a_quorum_is_rounded_up_and_at_least_one(asked: int, quorum: float, due: int) -> None:
    assert needed(asked, quorum) == due
