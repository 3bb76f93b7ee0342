"""Clip bounds whatever comes, and noise is the noise that was asked for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from confrere_common.privacy.mechanism import (
    GRID_BITS,
    MARGIN,
    chosen,
    clipped_sum,
    factors,
    grid,
    noised,
    normal,
    norms,
    secure_bytes,
)

NORMS = st.floats(0, 1e200) | st.sampled_from([math.nan, math.inf])
CLIPS = st.floats(min_value=1e-6, max_value=1e6)


@given(norm=NORMS, clip_norm=CLIPS)
@settings(deadline=None, max_examples=200)
def test_a_clipped_norm_is_within_the_limit_whatever_it_was(norm: float, clip_norm: float) -> None:
    """``factors``: "Guarantee: factor times norm is at most (1 - MARGIN) clip_norm, for every norm
    that is finite; the factor of any other is 0."
    """
    factor = float(factors(torch.tensor([norm], dtype=torch.float64), clip_norm)[0])

    if math.isfinite(norm):
        assert 0 <= factor <= 1
        assert factor * norm <= (1 - MARGIN) * clip_norm * (1 + 1e-12)
        assert factor == 1 or factor * norm >= 0.99 * clip_norm
    else:
        assert factor == 0


@given(
    scales=st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=5),
    broken=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]),
)
@settings(deadline=None, max_examples=60)
def test_a_patient_moves_the_sum_by_at_most_the_clip_norm(
    scales: list[float], broken: float | None
) -> None:
    """``clipped_sum``: "Guarantee: no patient, whatever the images are, moves this sum by more than
    clip_norm."
    """
    generator = torch.Generator().manual_seed(len(scales))
    shapes = {"kernel": (len(scales), 3, 5), "bias": (len(scales), 4)}
    sizes = torch.tensor(scales, dtype=torch.float32)
    gradients = {
        name: torch.randn(shape, generator=generator) * sizes.view(-1, *(1,) * (len(shape) - 1))
        for name, shape in shapes.items()
    }
    if broken is not None:
        gradients["bias"][-1, 0] = broken

    every = clipped_sum(gradients, 0.5)
    fewer = clipped_sum({name: tensor[:-1] for name, tensor in gradients.items()}, 0.5)

    moved = math.hypot(*(float((every[name] - fewer[name]).double().norm()) for name in every))
    assert moved <= (0.5 if broken is None else 0.0)


def test_norms_neither_overflow_nor_lose_digits() -> None:
    gradients = {"a": torch.full((1, 4), 1e30), "b": torch.full((1, 3_000_000), 1.0)}

    large, many = norms({"a": gradients["a"]}), norms({"b": gradients["b"]})

    assert float(large) == pytest.approx(2e30, rel=1e-6)
    assert float(many) == pytest.approx(math.sqrt(3_000_000), rel=1e-12)


def test_noise_is_normal_and_fresh() -> None:
    draw = secure_bytes()

    one, two = (normal(200_001, draw).numpy() for _ in range(2))

    assert len(one) == 200_001
    assert stats.kstest(one, "norm").pvalue > 1e-4
    assert stats.kstest(np.concatenate([one[:1000], two[:1000]]), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[:100_000], one[100_000:-1])[0, 1]) < 0.02  # cosines and sines


def test_the_tail_of_noise_reaches_beyond_nine_deviations_but_is_always_finite() -> None:
    lowest, highest = (
        normal(2, lambda count, word=word: word * count) for word in (b"\0", b"\xff")
    )

    assert float(lowest.norm()) == pytest.approx(math.sqrt(130 * math.log(2)), rel=1e-6)
    assert highest.isfinite().all()


@given(deviation=st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=30)
def test_a_noised_sum_lies_on_a_grid_that_float32_holds(deviation: float) -> None:
    """``noised``: "Guarantee: fresh, independent noise from *draw*, once for each entry; the result
    is rounded to the grid of the module's documentation."
    """
    sums = {"a": torch.full((300,), 0.123456789 * deviation)}

    found = noised(sums, deviation, secure_bytes())["a"]

    spacing = grid(deviation)
    assert math.log2(spacing).is_integer()
    assert deviation * 2.0 ** -(GRID_BITS + 1) < spacing <= deviation * 2.0**-GRID_BITS
    assert torch.equal(found / spacing, (found / spacing).round())
    assert torch.equal(found.float().double(), found)
    assert float(found.std()) == pytest.approx(deviation, rel=0.25)


@pytest.mark.parametrize("rate", [0.0001, 0.25, 0.5, 1.0])
def test_patients_are_drawn_at_their_rate_and_by_themselves(rate: float) -> None:
    """``chosen``: "Guarantee: each patient is in with probability at most *rate* and at least
    *rate* - 2**-53, independently of all others and of every other step."
    """
    draw = secure_bytes()

    counts = [len(chosen(10_000, rate, draw)) for _ in range(50)]

    assert np.mean(counts) == pytest.approx(10_000 * rate, abs=5 * math.sqrt(10_000 * rate / 50))
    assert np.std(counts) <= 1.6 * math.sqrt(10_000 * rate * (1 - rate))
    assert rate == 1.0 or np.std(counts) >= 0.5 * math.sqrt(10_000 * rate * (1 - rate))
    assert len(chosen(0, rate, draw)) == 0
