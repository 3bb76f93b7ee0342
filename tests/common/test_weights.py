"""Named arrays keep the algebra of vectors, and change nothing in place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.errors import ExchangeError
from confrere_common.weights import (
    LUMP,
    add,
    combine,
    count,
    finite,
    lumps,
    must_fit,
    nbytes,
    norm,
    scale,
    subtract,
    zeros_like,
)

entries = st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6)


def named(values: list[float]) -> dict[str, Tensor]:
    flat = torch.tensor(values)
    return {"a": flat[:4].reshape(2, 2), "b": flat[4:5], "c": flat[5]}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[n], right[n]) for n in left)


@settings(deadline=None, max_examples=30)
@given(left=entries, right=entries)
def test_addition_commutes_and_zero_changes_nothing(left: list[float], right: list[float]) -> None:
    one, two = named(left), named(right)

    assert same(add(one, two), add(two, one))
    assert same(add(one, zeros_like(one)), subtract(one, zeros_like(one)))
    assert same(subtract(one, one), zeros_like(one))


@settings(deadline=None, max_examples=30)
@given(values=entries, factor=st.floats(-8, 8, width=32))
def test_the_norm_scales_with_the_weights(values: list[float], factor: float) -> None:
    weights = named(values)

    assert norm(scale(weights, factor)) == pytest.approx(abs(factor) * norm(weights), rel=1e-5)


def test_no_operation_changes_what_it_was_given() -> None:
    one, two = named([1, 2, 3, 4, 5, 6]), named([6, 5, 4, 3, 2, 1])

    for made in (add(one, two), subtract(one, two), scale(one, 2), zeros_like(one)):
        for tensor in made.values():
            tensor.fill_(9)

    assert same(one, named([1, 2, 3, 4, 5, 6]))
    assert same(two, named([6, 5, 4, 3, 2, 1]))


def test_entries_and_bytes_are_counted() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float64)}

    assert (count(weights), nbytes(weights)) == (10, 6 * 4 + 4 * 8)
    assert (count({}), nbytes({}), norm({})) == (0, 0, 0.0)


def test_a_norm_beyond_float32_is_still_found() -> None:
    assert norm({"a": torch.full((4,), 1e30)}) == pytest.approx(2e30)


def test_zeros_are_float32_whatever_they_are_like() -> None:
    zeros = zeros_like({"a": torch.ones(2, dtype=torch.int64)})

    assert zeros["a"].dtype == torch.float32


def test_a_function_meets_the_tensors_of_one_name() -> None:
    made = combine(torch.maximum, {"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)})

    assert same(made, {"a": torch.tensor(2.0)})


@pytest.mark.parametrize(
    ("weights", "due"),
    [
        ({"a": torch.zeros(2)}, "names differ from the model's in 1 places, first 'b'"),
        ({"a": torch.zeros(2), "b": torch.zeros(1), "x": torch.zeros(1)}, "first 'x'"),
        ({}, "in 2 places, first 'a'"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(1)}, r"shape \(2, 1\); the model's is \(2,\)"),
        ({"a": torch.zeros(3), "b": torch.zeros(1)}, r"'a' has shape \(3,\)"),
        ({"a": torch.tensor([0.0, torch.nan]), "b": torch.zeros(1)}, "'a' holds NaN or infinite"),
        ({"a": torch.zeros(2), "b": torch.tensor([-torch.inf])}, "'b' holds NaN or infinite"),
        ({"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(1)}, "'a' is torch.int64"),
        ({"a": torch.zeros(2), "b": torch.zeros(1, dtype=torch.float64)}, "'b' is torch.float64"),
    ],
)
def test_weights_that_do_not_fit_are_told_why(weights: dict[str, Tensor], due: str) -> None:
    template = {"a": torch.ones(2), "b": torch.ones(1)}

    with pytest.raises(ExchangeError, match=due):
        must_fit(weights, template)


def test_weights_that_fit_pass_in_any_order() -> None:
    template = {"a": torch.ones(2), "b": torch.ones(())}

    must_fit({"b": torch.zeros(()), "a": torch.zeros(2)}, template)


def test_one_entry_that_is_no_number_is_seen() -> None:
    assert finite({"a": torch.zeros(2), "n": torch.tensor([3])})
    assert not finite({"a": torch.zeros(2), "b": torch.tensor([[0.0, torch.nan]])})


def test_lumps_hold_every_entry_once_and_mix_no_types() -> None:
    weights = {f"small-{n}": torch.full((1000,), float(n)) for n in range(200)}
    weights |= {"large": torch.ones(5000), "half": torch.ones(3).half(), "none": torch.ones(0)}
    weights |= {"count": torch.tensor(100_000)}

    found = list(lumps(weights))

    assert sum(lump.numel() for lump in found) == count(weights)
    assert sum(float(lump.double().sum()) for lump in found) == 1000 * 19900 + 5003 + 100_000
    assert finite(weights)
    assert max(lump.numel() for lump in found if lump is not weights["large"]) < LUMP + 1000
    assert len(found) < 10


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [3, 5000])
def test_one_odd_entry_among_small_and_large_is_found(odd: float, size: int) -> None:
    weights = {str(n): torch.ones(size) for n in range(20)}
    weights["13"][1] = odd

    assert not finite(weights)
