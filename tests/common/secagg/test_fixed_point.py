"""Whole numbers stand for an update so closely, and so evenly, that a sum does not show it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_rounds import error_of, weights

from confrere_common.errors import ExchangeError
from confrere_common.secagg.fixed_point import CHUNK, EXTRA, FixedPoint, from_fixed, to_fixed
from confrere_common.secagg.section import bits_within

POINT = FixedPoint(bits=26, clip=0.05, weight_max=500)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def fixed(delta: dict[str, torch.Tensor], images: int = 500, point: FixedPoint = POINT):
    return to_fixed(delta, images, point, generator())


@settings(deadline=None, max_examples=25)
@given(
    values=st.lists(st.floats(-0.046875, 0.046875, width=32), min_size=1, max_size=6),
    images=st.lists(st.integers(1, 500), min_size=1, max_size=8),
)
def test_a_sum_is_the_weighted_mean_to_within_its_grid(
    values: list[float], images: list[int]
) -> None:
    delta = {"w": torch.tensor(values)}
    total = np.zeros(len(values) + EXTRA, np.uint32)
    for seed, one in enumerate(images):
        total += to_fixed(delta, one, POINT, generator(seed))

    found, counted, sites = from_fixed(total, delta, POINT)

    grid = POINT.clip / POINT.levels * POINT.weight_max * len(images) / sum(images)
    assert (counted, sites) == (sum(images), len(images))
    assert torch.allclose(found["w"], delta["w"], rtol=1e-6, atol=1.01 * grid)


def test_the_sum_of_whole_numbers_is_exact_however_many_sites() -> None:
    # 64 sites at the very limit, all of one sign: the sum just does not wrap around.
    for value in (0.05, -0.05):
        delta = {"w": torch.full((3,), value)}
        total = np.zeros(3 + EXTRA, np.uint32)
        for seed in range(64):
            total += to_fixed(delta, 500, POINT, generator(seed))

        whole = total[:3].view(np.int32).astype(np.int64)

        assert (np.abs(whole) >= 64 * (POINT.levels - 1)).all()
        assert (np.sign(whole) == np.sign(value)).all()


@pytest.mark.parametrize("sites", [3, 50, 64, 65, 128, 129, 1024])
def test_as_many_sites_as_may_be_never_wrap_around(sites: int) -> None:
    point = FixedPoint(bits=bits_within(26, sites), clip=1.0, weight_max=2**22)

    assert sites * point.levels < 2**31
    assert sites * point.weight_max <= 2**32


def test_rounding_is_right_on_average() -> None:
    point = FixedPoint(bits=8, clip=1.0, weight_max=1)
    delta = {"w": torch.full((200_000,), 0.3 / point.levels)}

    vector = to_fixed(delta, 1, point, generator())

    assert set(np.unique(vector[:-EXTRA])) == {0, 1}
    assert abs(float(vector[:-EXTRA].mean()) - 0.3) < 0.005


def test_an_update_of_many_chunks_and_shapes_comes_back() -> None:
    delta = {
        "z": 0.001 * torch.randn(3, CHUNK // 2, generator=torch.Generator().manual_seed(0)),
        "a": torch.tensor(0.01),
        "m": torch.zeros(0, 4),
    }

    found, images, sites = from_fixed(fixed(delta), delta, POINT)

    assert (images, sites) == (500, 1)
    assert list(found) == list(delta)
    assert all(found[name].shape == delta[name].shape for name in delta)
    assert error_of(found, {name: tensor.double() for name, tensor in delta.items()}) < 1e-5


def test_a_site_counts_for_no_more_than_the_largest_weight() -> None:
    delta = weights()

    assert np.array_equal(fixed(delta, 10**9), fixed(delta, 500))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_never_masked(bad: float) -> None:
    with pytest.raises(ExchangeError, match="NaN or infinite"):
        fixed({"w": torch.tensor([0.0, bad, 0.1])})


def test_an_update_that_clipping_would_spoil_is_refused_with_advice() -> None:
    with pytest.raises(ExchangeError, match=r"clip \(0.05\) would cut 75% .* raise it"):
        fixed({"w": torch.tensor([0.001, 0.1])})


def test_a_single_stray_entry_is_cut_and_the_rest_kept() -> None:
    values = torch.full((10_000,), 0.04)
    values[3] = 0.06
    delta = {"w": values}

    found, _, _ = from_fixed(fixed(delta), delta, POINT)

    assert float(found["w"][3]) == pytest.approx(0.05)
    assert torch.allclose(found["w"][4:], values[4:], atol=1e-8)
