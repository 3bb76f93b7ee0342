"""Intervals and tests between arms, where the truth is known because it was drawn."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from confrere_client.evaluation import paired
from confrere_client.measure.intervals import Truth
from confrere_client.measure.probe import accuracy, macro_auc

PATIENTS = np.arange(60) // 2
TRUTH = Truth(labels=np.arange(60) % 3, patients=PATIENTS)


def scores(skill: float, seed: int = 0, seeds: int = 2) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(seeds, 60, 3))
    return noise + skill * np.eye(3)[TRUTH.labels]


def test_the_interval_of_a_mean_over_cases_is_as_wide_as_the_standard_error_says() -> None:
    values_N = np.random.default_rng(1).normal(0.5, 0.05, size=60)

    found = paired.weighed_figure([paired.weighed_mean(values_N)], np.arange(60))

    assert found is not None
    assert found.mean == pytest.approx(values_N.mean())
    assert found.low < found.mean < found.high
    due = 2 * 1.96 * values_N.std() / np.sqrt(60)
    assert found.high - found.low == pytest.approx(due, rel=0.1)


def test_a_case_that_is_undefined_has_no_part() -> None:
    values_N = np.array([0.5, np.nan, 0.7])

    found = paired.weighed_figure([paired.weighed_mean(values_N)], np.arange(3))

    assert found is not None
    assert found.mean == pytest.approx(0.6)
    assert paired.quartiles(values_N[None]).median == pytest.approx(0.6)


def test_quartiles_are_of_cases_that_every_seed_knows() -> None:
    values_SN = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 9.0], [2.0, 3.0, 4.0, 5.0, 6.0, np.nan]])

    found = paired.quartiles(values_SN)

    assert (found.lower, found.median, found.upper) == (2, 3, 4)
    assert np.isnan(paired.quartiles(np.full((1, 4), np.nan)).median)


def test_the_same_cases_differ_by_nothing_and_better_ones_by_their_gain() -> None:
    values_N = np.random.default_rng(2).random(60) / 2
    plain, more = paired.weighed_mean(values_N), paired.weighed_mean(values_N + 0.3)

    same = paired.weighed_difference([plain], [plain], PATIENTS)
    better = paired.weighed_difference([more], [plain], PATIENTS)

    assert same is not None
    assert better is not None
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert (better.mean, better.low, better.high) == pytest.approx((0.3, 0.3, 0.3))


def swapped(ours: np.ndarray, theirs: np.ndarray, swaps: int = 199) -> float:
    """Return p of the accuracy of scores (S, N, K)."""
    twice = np.concatenate([TRUTH.labels, TRUTH.labels])
    both = [
        partial(accuracy, np.concatenate(pair), twice) for pair in zip(ours, theirs, strict=True)
    ]
    return paired.swap_test(both, PATIENTS, swaps=swaps)


def of_cases(
    ours_N: np.ndarray, theirs_N: np.ndarray, patients: np.ndarray, swaps: int = 999
) -> float:
    mean = paired.weighed_mean(np.concatenate([ours_N, theirs_N]))
    return paired.swap_test([mean], patients, swaps=swaps)


def test_arms_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    good, bad, alike = scores(2.0), scores(0.2, seed=1), scores(2.0, seed=2)

    assert swapped(good, bad) == pytest.approx(1 / 200)
    assert swapped(good, alike) > 0.05
    assert swapped(good, good, swaps=19) == 1


def test_p_is_even_when_nothing_differs() -> None:
    drawn = np.random.default_rng(3).random((200, 2, 30))

    p_values = [of_cases(ours, theirs, np.arange(30), swaps=99) for ours, theirs in drawn]

    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_the_test_of_cases_agrees_with_students() -> None:
    generator = np.random.default_rng(4)
    ours_N, theirs_N = generator.normal(0.55, 0.2, 80), generator.normal(0.5, 0.2, 80)

    found = of_cases(ours_N, theirs_N, np.arange(80), swaps=4999)

    assert found == pytest.approx(stats.ttest_rel(ours_N, theirs_N).pvalue, abs=0.03)


def test_images_of_one_patient_are_no_independent_witnesses() -> None:
    gain_N = np.repeat(np.random.default_rng(5).normal(0.3, 1, size=10), 20)

    alone = of_cases(gain_N, np.zeros(200), np.arange(200))
    together = of_cases(gain_N, np.zeros(200), np.repeat(np.arange(10), 20))

    assert alone < together


def test_memory_is_bounded_and_what_is_not_known_has_no_p(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = swapped(scores(1.0), scores(0.8, seed=1))
    monkeypatch.setattr(paired, "CHUNK_ENTRIES", 1000)

    assert swapped(scores(1.0), scores(0.8, seed=1)) == whole
    assert np.isnan(of_cases(np.full(4, np.nan), np.zeros(4) * np.nan, np.arange(4)))
    assert np.isnan(of_cases(np.zeros(0), np.zeros(0), np.zeros(0, np.int64)))


def areas_swapped(number: int, gap: float, shift: float, *, ranked: bool) -> float:
    """Return p of the AUC of 80 drawn patients; theirs are told apart less well, and shifted."""
    random, labels_N = np.random.default_rng(number), np.arange(80) % 2
    noise = random.normal(size=(3, 80)) * 0.7
    arms = [labels_N + noise[0] + noise[1], labels_N * (1 - gap) + noise[0] + noise[2] + shift]
    both_N = np.concatenate([paired.ranks(arm_N) if ranked else arm_N for arm_N in arms])
    auc = partial(macro_auc, np.stack([-both_N, both_N], axis=1), np.tile(labels_N, 2))
    return paired.swap_test([auc], np.arange(80), swaps=99)


def test_ranks_make_p_hold_its_level_and_find_a_difference_whatever_the_scales() -> None:
    def below(gap: float, *, ranked: bool) -> float:
        tried = [areas_swapped(number, gap, shift=2, ranked=ranked) for number in range(60)]
        return float(np.mean(np.asarray(tried) <= 0.05))

    assert below(0.0, ranked=True) < 0.15
    assert below(0.5, ranked=True) > 3 * below(0.5, ranked=False)


def test_ranks_count_from_the_top_and_equal_values_share_them() -> None:
    assert paired.ranks(np.array([0.2, 0.9, 0.2, 0.5])).tolist() == [-2.5, 0, -2.5, -1]


def test_many_p_values_are_raised_step_by_step() -> None:
    found = paired.holm({"a": 0.01, "b": 0.04, "c": 0.03, "none": float("nan")})

    assert found["a"] == pytest.approx(0.03)
    assert found["c"] == pytest.approx(0.06)
    assert found["b"] == pytest.approx(0.06)
    assert np.isnan(found["none"])


def test_a_mean_in_millimetres_has_its_interval_in_millimetres() -> None:
    values_N, patients = np.array([3.0, 40.0, 11.0, 26.0]), np.arange(4)

    measured = paired.InUnits(values_N=values_N)
    found = paired.weighed_figure([measured, measured], patients)

    assert found is not None
    assert found.mean == pytest.approx(20)
    assert 3 <= found.low < 20 < found.high <= 40
