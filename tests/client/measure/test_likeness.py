"""CKA: what it must not see, what it must, and when it knows nothing."""

import numpy as np
import pytest

from confrere_client.measure.likeness import cka

GENERATOR = np.random.default_rng(0)


def features(images: int = 60, width: int = 8) -> np.ndarray:
    return GENERATOR.normal(size=(images, width)).astype(np.float32)


def test_a_turn_a_scale_and_a_shift_change_nothing() -> None:
    one = features()
    turn, _ = np.linalg.qr(GENERATOR.normal(size=(8, 8)))

    assert cka(one, one) == pytest.approx(1)
    assert cka(one, 3 * one @ turn.astype(np.float32) + 5) == pytest.approx(1, abs=1e-5)


def test_another_mixture_of_the_same_features_is_less_alike() -> None:
    one = features()
    skewed = one * np.array([20, *[1] * 7], np.float32)

    assert 0.1 < cka(one, skewed) < 0.9
    assert cka(one, skewed) == pytest.approx(cka(skewed, one))


def test_unrelated_features_of_few_images_are_not_called_alike() -> None:
    found = [cka(features(12, 200), features(12, 200)) for _ in range(200)]

    # The plain estimate says about 0.95 here.
    assert abs(np.mean(found)) < 0.02


def test_it_follows_the_formula_written_out() -> None:
    one, other = features(6, 3).astype(np.float64), features(6, 4).astype(np.float64)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        n, ones = len(a), np.ones(len(a))
        k, m = (x @ x.T - np.diag(np.diag(x @ x.T)) for x in (a, b))
        middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        whole = np.trace(k @ m) + middle - 2 / (n - 2) * ones @ k @ m @ ones
        return float(whole / (n * (n - 3)))

    due = hsic(one, other) / np.sqrt(hsic(one, one) * hsic(other, other))
    assert cka(one.astype(np.float32), other.astype(np.float32)) == pytest.approx(due, abs=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (features(3), features(3)),
        (np.ones((10, 4), np.float32), features(10)),
        (features(10), np.zeros((10, 2), np.float32)),
    ],
    ids=["three images", "a network that collapsed", "no feature at all"],
)
def test_nothing_is_known_of_too_few_or_of_features_that_do_not_vary(
    one: np.ndarray, other: np.ndarray
) -> None:
    assert np.isnan(cka(one, other))
