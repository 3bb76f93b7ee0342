"""Intervals and tests between arms, where the truth is known because it was drawn."""

import numpy as np
import pytest
from scipy import stats

from confrere_client.evaluation import paired
from confrere_client.measure.intervals import Truth
from confrere_client.measure.probe import accuracy
from confrere_common.errors import DataError

PATIENTS = np.arange(60) // 2
TRUTH = Truth(labels=np.arange(60) % 3, patients=PATIENTS)


def scores(skill: float, seed: int = 0, seeds: int = 2) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(seeds, 60, 3))
    return noise + skill * np.eye(3)[TRUTH.labels]


def test_a_mean_over_cases_lies_in_its_interval_in_its_own_unit() -> None:
    distances_SN = np.random.default_rng(0).gamma(2, 10, size=(3, 60))

    found = paired.case_figure(distances_SN, PATIENTS)

    assert found is not None
    assert found.mean == pytest.approx(distances_SN.mean())
    assert 1 < found.low < found.mean < found.high < distances_SN.max()
    assert found.n == 3


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    values_N = np.random.default_rng(1).normal(50, 5, size=60)

    found = paired.case_figure(values_N, np.arange(60))

    assert found is not None
    due = 2 * 1.96 * values_N.std() / np.sqrt(60)
    assert found.high - found.low == pytest.approx(due, rel=0.1)


def test_a_case_that_is_undefined_has_no_part() -> None:
    values_N = np.array([0.5, np.nan, 0.7])

    found = paired.spread(values_N, np.arange(3))

    assert found.mean is not None
    assert found.mean.mean == pytest.approx(0.6)
    assert (found.median, found.cases) == (pytest.approx(0.6), 2)


def test_nothing_known_has_no_figure() -> None:
    found = paired.spread(np.full(4, np.nan), np.arange(4))

    assert found.mean is None
    assert found.cases == 0
    assert np.isnan(paired.case_test(np.full(4, np.nan), np.zeros(4), np.arange(4)))


def test_the_same_cases_differ_by_nothing_and_better_ones_by_their_gain() -> None:
    values_N = np.random.default_rng(2).random(60)

    same = paired.case_difference(values_N, values_N, PATIENTS)
    better = paired.case_difference(values_N + 3, values_N, PATIENTS)

    assert same is not None
    assert better is not None
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert (better.mean, better.low, better.high) == pytest.approx((3, 3, 3))


def test_a_case_counts_only_where_both_arms_know_it() -> None:
    ours_N, theirs_N = np.array([1.0, np.nan, 0.5]), np.array([0.5, 0.5, np.nan])

    found = paired.case_difference(ours_N, theirs_N, np.arange(3))

    assert found is not None
    assert found.mean == pytest.approx(0.5)


def test_arms_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    good, bad, alike = scores(2.0), scores(0.2, seed=1), scores(2.0, seed=2)

    assert paired.swap_test(accuracy, good, bad, TRUTH, swaps=199) == pytest.approx(1 / 200)
    assert paired.swap_test(accuracy, good, alike, TRUTH, swaps=199) > 0.05
    assert paired.swap_test(accuracy, good, good, TRUTH, swaps=19) == 1


def test_p_is_even_when_nothing_differs() -> None:
    drawn = np.random.default_rng(3).random((200, 2, 30))

    p_values = [paired.case_test(ours, theirs, np.arange(30), swaps=99) for ours, theirs in drawn]

    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_the_test_of_cases_agrees_with_students() -> None:
    generator = np.random.default_rng(4)
    ours_N, theirs_N = generator.normal(0.55, 0.2, 80), generator.normal(0.5, 0.2, 80)

    found = paired.case_test(ours_N, theirs_N, np.arange(80), swaps=4999)

    assert found == pytest.approx(stats.ttest_rel(ours_N, theirs_N).pvalue, abs=0.03)


def test_images_of_one_patient_are_no_independent_witnesses() -> None:
    gain_N = np.repeat(np.random.default_rng(5).normal(0.3, 1, size=10), 20)

    alone = paired.case_test(gain_N, np.zeros(200), np.arange(200))
    together = paired.case_test(gain_N, np.zeros(200), np.repeat(np.arange(10), 20))

    assert alone < together


def test_many_p_values_are_raised_step_by_step() -> None:
    found = paired.holm({"a": 0.01, "b": 0.04, "c": 0.03, "none": float("nan")})

    assert found["a"] == pytest.approx(0.03)
    assert found["c"] == pytest.approx(0.06)
    assert found["b"] == pytest.approx(0.06)
    assert np.isnan(found["none"])


def test_a_negative_case_and_arms_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="a case has the value -1"):
        paired.case_figure(np.array([-1.0, 2.0]), np.arange(2))
    with pytest.raises(DataError, match="cannot be swapped"):
        paired.swap_test(accuracy, scores(1), scores(1, seeds=3), TRUTH)
    with pytest.raises(DataError, match="2 values do not fit 3"):
        paired.spread(np.zeros(2), np.arange(3))


def test_a_mean_in_millimetres_has_its_interval_in_millimetres() -> None:
    values_N, patients = np.array([3.0, 40.0, 11.0, 26.0]), np.arange(4)

    measured = paired.InUnits(values_N=values_N)
    found = paired.weighed_figure([measured, measured], patients)

    assert found is not None
    assert found.mean == pytest.approx(20)
    assert 3 <= found.low < 20 < found.high <= 40
