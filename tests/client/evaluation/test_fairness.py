"""``fairness.by_group``: "Guarantee: neither figure nor size is told of a group of fewer than
*smallest* patients, and where any group is told, what is left of the total is no group by itself,
nor fewer than that."
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.evaluation.fairness import (
    age_bands,
    by_group,
    fairness,
    joining,
    suppressed,
)
from confrere_client.evaluation.paired import Weighed
from confrere_client.measure.intervals import Truth
from confrere_client.measure.probe import accuracy

TRUTH = Truth(labels=np.arange(120) % 2, patients=np.arange(120) // 2)


def scores(skill_N: np.ndarray | float, seed: int = 0) -> np.ndarray:
    """Return scores (1, N, K) that are right as often as the skill of an image says."""
    right_N = np.random.default_rng(seed).random(120) < skill_N
    told_N = np.where(right_N, TRUTH.labels, 1 - TRUTH.labels)
    return np.eye(2)[told_N][None]


def test_evenness_is_worked_out_by_hand() -> None:
    found = fairness({"a": 0.9, "b": 0.6, "c": 0.9, "unknown": float("nan")})

    assert found is not None
    assert (found.worst, found.lowest, found.groups) == ("b", 0.6, 3)
    assert found.gap == pytest.approx(0.3)
    assert found.jain == pytest.approx(2.4**2 / (3 * (0.81 + 0.36 + 0.81)))


def test_one_that_gets_all_is_as_uneven_as_can_be() -> None:
    alone, alike = fairness({"a": 1, "b": 0, "c": 0, "d": 0}), fairness({"a": 0.5, "b": 0.5})

    assert alone is not None
    assert alike is not None
    assert alone.jain == pytest.approx(1 / 4)
    assert (alike.jain, alike.gap) == (pytest.approx(1), 0)
    assert fairness({"a": 1}) is None
    assert fairness({"a": 0, "b": 0}).jain == 1  # type: ignore[union-attr]


def both_of(
    federated: np.ndarray, local: Mapping[str, np.ndarray]
) -> Callable[[str, np.ndarray], tuple[list[Weighed], list[Weighed]]]:
    """Return what gives both figures of a site: scores (S, N, K), and those of its own model."""

    def judged(scores_SNK: np.ndarray, rows: np.ndarray) -> list[Weighed]:
        return [partial(accuracy, each[rows], TRUTH.labels[rows]) for each in scores_SNK]

    return lambda site, rows: (judged(federated, rows), judged(local[site], rows))


def test_joining_pays_for_one_and_costs_another() -> None:
    sites = np.where(np.arange(120) < 60, "north", "south")
    good, bad = scores(0.95), scores(0.55, seed=1)
    federated = np.where((sites == "north")[None, :, None], good, bad)

    both = both_of(federated, {"north": bad, "south": good})
    found = joining(both, TRUTH.patients, sites, smallest=5)

    assert found.surely_gaining == ("north",)
    assert found.surely_losing == found.losing == ("south",)
    assert found.gains["north"].mean == pytest.approx(
        (good[0].argmax(1) == TRUTH.labels)[:60].mean()
        - (bad[0].argmax(1) == TRUTH.labels)[:60].mean()
    )


def test_of_a_small_site_and_of_no_site_it_is_not_told_whether_joining_paid() -> None:
    sites = np.where(np.arange(120) < 8, "few", np.where(np.arange(120) < 60, "", "many"))
    both = both_of(scores(0.8), {"few": scores(0.5), "many": scores(0.7)})

    assert set(joining(both, TRUTH.patients, sites, smallest=5).gains) == {"many"}
    assert set(joining(both, TRUTH.patients, sites, smallest=4).gains) == {"few", "many"}


def within(scores_SNK: np.ndarray, truth: Truth) -> Callable[[np.ndarray], list[Weighed]]:
    """Return what gives the accuracy of each seed on some rows."""
    return lambda rows: [partial(accuracy, each[rows], truth.labels[rows]) for each in scores_SNK]


def test_groups_are_told_with_intervals() -> None:
    groups = np.where(np.arange(120) < 60, "F", "M")
    skill_N = np.where(groups == "F", 0.95, 0.6)

    found = by_group(within(scores(skill_N), TRUTH), TRUTH.patients, groups)

    assert found.patients == {"F": 30, "M": 30}
    assert found.suppressed == ()
    assert found.figures["F"].low > found.figures["M"].high
    assert found.fairness is not None
    assert found.fairness.worst == "M"


@given(sizes=st.lists(st.integers(0, 25), min_size=1, max_size=5), smallest=st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_no_small_group_shows_itself_or_by_subtraction(sizes: list[int], smallest: int) -> None:
    names = [f"group {number}" for number in range(len(sizes))]
    groups = np.repeat(names, sizes) if sum(sizes) else np.zeros(0, str)
    count = len(groups)
    truth = Truth(labels=np.arange(count) % 2, patients=np.arange(count))

    found = by_group(
        within(np.eye(2)[truth.labels][None], truth), truth.patients, groups, smallest=smallest
    )

    assert all(size >= smallest for size in found.patients.values())
    assert found.figures.keys() <= found.patients.keys()
    assert not set(found.suppressed) & set(found.patients)
    rest = count - sum(found.patients.values())
    if found.patients and rest:
        assert len(found.suppressed) >= 2
        assert rest >= smallest


def test_larger_groups_hide_the_smallest() -> None:
    assert suppressed({"F": 30, "M": 4, "D": 12}, 10) == ("D", "M")
    assert suppressed({"F": 6, "M": 4, "D": 12}, 10) == ("F", "M")
    assert suppressed({"F": 3, "M": 4, "D": 12, "X": 13}, 10) == ("D", "F", "M")
    assert suppressed({"F": 3}, 10) == ("F",)
    assert suppressed({"F": 10}, 10) == ()


def test_ages_fall_into_bands() -> None:
    ages = np.array([0, 17.9, 18, 39, 59, 60, 79, 80, 101, -1, np.nan, 999])

    assert age_bands(ages).tolist() == [
        "0-17", "0-17", "18-39", "18-39", "40-59", "60-79", "60-79", "80+", "80+", "", "", "",
    ]  # fmt: skip
