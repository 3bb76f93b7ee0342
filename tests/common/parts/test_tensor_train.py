"""Tensor trains: how many numbers they hold, what matrix they stand for, how they are layers."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from confrere_common.encoder import ENCODERS, build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.model import must_build
from confrere_common.parts.tensor_train import (
    TensorTrain,
    TrainConvolution,
    TrainLinear,
    aligned,
    contract,
    convolution,
    decompose,
    factors,
    linear,
    parameters,
    ranks,
)
from confrere_common.release import Card, load_release, save_release
from confrere_common.weights import count

FULL = 10**6
KNOBS: dict[str, dict[str, Any]] = {
    "resnet": {"width": 16, "groups": 4},
    "vit": {"dim": 48, "depth": 2, "heads": 2, "patch": 8},
    "swin": {"dim": 24, "depths": [2, 2], "window": 3},
}
modes = st.lists(st.integers(1, 4), min_size=2, max_size=4)
shapes = modes.flatmap(
    lambda rows: st.tuples(
        st.just(rows), st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows))
    )
)


def matrix(rows: list[int], columns: list[int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(rows), math.prod(columns)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def tiny(name: str, size: tuple[int, ...] = (16, 16), **knobs: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder(Named(name=name, knobs={**KNOBS[name], **knobs}), channels=1, size=size)


# ------------------------------------------------------------------------------ arithmetic


def test_the_example_of_the_literature_has_8832_numbers_in_place_of_4194304() -> None:
    eight = (4, 8, 8, 8)

    assert factors(2048, 4) == eight
    assert parameters(eight, eight, 8) == 16 * 8 + 64 * 64 + 64 * 64 + 64 * 8 == 8832


@given(size=st.integers(1, 3000), count=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_factors_give_back_their_number(size: int, count: int) -> None:
    found = factors(size, count)

    assert (math.prod(found), len(found)) == (size, count)
    assert all(one <= other for one, other in pairwise(found))


@given(shape=shapes, rank=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_cores_hold_as_many_numbers_as_the_formula_says(
    shape: tuple[list[int], list[int]], rank: int
) -> None:
    rows, columns = shape

    cores = decompose(matrix(rows, columns), rows, columns, rank)

    inner = ranks(rows, columns, rank)
    assert [tuple(core.shape) for core in cores] == [
        (inner[k], rows[k], columns[k], inner[k + 1]) for k in range(len(rows))
    ]
    assert sum(core.numel() for core in cores) == parameters(rows, columns, rank)


@given(shape=shapes)
@settings(deadline=None, max_examples=30)
def test_a_matrix_of_full_rank_comes_back(shape: tuple[list[int], list[int]]) -> None:
    full = matrix(*shape)

    torch.testing.assert_close(contract(decompose(full, *shape, FULL)), full)


@given(shape=shapes, rank=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_a_train_of_a_rank_comes_back_at_that_rank(
    shape: tuple[list[int], list[int]], rank: int
) -> None:
    short = contract(decompose(matrix(*shape), *shape, rank))

    torch.testing.assert_close(contract(decompose(short, *shape, rank)), short)


def test_an_entry_is_the_product_of_its_cores_matrices() -> None:
    rows, columns = [2, 3, 2], [3, 2, 2]
    cores = decompose(matrix(rows, columns), rows, columns, 3)

    whole = contract(cores).reshape(*rows, *columns)

    one, two, three = cores[0][:, 1, 2], cores[1][:, 2, 0], cores[2][:, 0, 1]
    torch.testing.assert_close(whole[1, 2, 0, 2, 0, 1], (one @ two @ three)[0, 0])


def test_a_higher_rank_never_stands_for_less() -> None:
    rows, columns = [4, 4, 4], [4, 4, 4]
    full = matrix(rows, columns)

    missed = [
        float((contract(decompose(full, rows, columns, rank)) - full).norm())
        for rank in (1, 2, 4, 8, 16)
    ]

    assert missed == sorted(missed, reverse=True)
    assert missed[-1] < 1e-9


def test_a_gauge_is_found_back_and_the_matrix_stays() -> None:
    rows, columns = [3, 4, 2], [2, 3, 4]
    cores = decompose(matrix(rows, columns), rows, columns, 3)
    turn = matrix([3], [3], seed=1)
    turned = [
        torch.tensordot(cores[0], turn, dims=1),
        torch.tensordot(torch.linalg.inv(turn), cores[1], dims=1),
        cores[2],
    ]

    found = aligned(turned, cores)

    torch.testing.assert_close(contract(turned), contract(cores))
    for one, other in zip(found, cores, strict=True):
        torch.testing.assert_close(one, other)


@given(shape=shapes, rank=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_aligning_never_changes_the_matrix(
    shape: tuple[list[int], list[int]], rank: int, seed: int
) -> None:
    cores = decompose(matrix(*shape), *shape, rank)
    like = decompose(matrix(*shape, seed=seed), *shape, rank)

    moved = aligned(cores, like)

    torch.testing.assert_close(contract(moved), contract(cores), rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(("dims", "kernel", "stride"), [(2, 1, 2), (2, 3, 1), (3, 3, 2), (3, 1, 1)])
def test_a_convolution_of_cores_is_that_of_their_matrix(
    dims: int, kernel: int, stride: int
) -> None:
    layer: Any = convolution(dims, (24, 32), kernel, stride, TensorTrain(rank=4))
    plain: Any = convolution(dims, (24, 32), kernel, stride, None)
    dense_OPI = contract(list(layer.cores)).reshape(32, *(kernel,) * dims, 24)
    plain.weight.data = dense_OPI.movedim(-1, 1)
    images = torch.randn(2, 24, *(5,) * dims)

    assert isinstance(layer, TrainConvolution)
    torch.testing.assert_close(layer(images), plain(images))


def test_a_linear_layer_of_cores_is_that_of_their_matrix() -> None:
    layer: Any = linear(96, 48, TensorTrain(rank=4))
    features = torch.randn(3, 5, 96)

    found = layer(features)

    torch.testing.assert_close(found, features @ contract(list(layer.cores)).T + layer.bias)


def test_a_layer_that_cores_would_not_make_smaller_stays_dense() -> None:
    assert isinstance(linear(8, 8, TensorTrain(rank=8)), nn.Linear)
    assert isinstance(convolution(2, (3, 8), 3, 1, TensorTrain(rank=64)), nn.Conv2d)
    assert isinstance(linear(96, 96, TensorTrain(rank=4)), TrainLinear)
    assert isinstance(linear(96, 96, None), nn.Linear)


@pytest.mark.parametrize(
    "make", [lambda o: linear(128, 96, o), lambda o: convolution(2, (64, 64), 3, 1, o)]
)
def test_an_untrained_layer_has_the_spread_of_a_dense_one(make: Any) -> None:
    torch.manual_seed(0)
    short, plain = make(TensorTrain(rank=8)), make(None)

    spread = float(contract(list(short.cores)).std().detach())

    ins, outs = 128, 96
    due = (2 / (ins + outs)) ** 0.5 if isinstance(plain, nn.Linear) else (2 / 576) ** 0.5
    assert spread == pytest.approx(due, rel=1e-4)


# -------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", KNOBS)
def test_an_encoder_of_cores_is_smaller_and_gives_the_same_shapes(name: str) -> None:
    plain, short = tiny(name), tiny(name, tensor_train={"rank": 3})
    images = torch.randn(2, 1, 16, 16)

    assert count(short.state_dict()) < count(plain.state_dict()) / 3
    assert short(images).shape == plain(images).shape
    assert any(".cores.0" in key for key in short.state_dict())


@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)], ids=["2-D", "3-D"])
def test_each_image_s_gradient_can_be_had_of_cores(name: str, size: tuple[int, ...]) -> None:
    encoder = tiny(name, size, tensor_train={"rank": 2})
    images = torch.randn(2, 1, *size)
    weights = {key: weight.detach() for key, weight in encoder.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(encoder, weights, (image[None],)).square().sum()

    with sdpa_kernel(SDPBackend.MATH):
        mapped = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    encoder(images[:1]).square().sum().backward()

    for key, weight in encoder.named_parameters():
        assert weight.grad.any(), key
        torch.testing.assert_close(mapped[key][0], weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", KNOBS)
def test_an_encoder_of_cores_is_released_and_read_back(name: str, tmp_path: Path) -> None:
    knobs = {**KNOBS[name], "tensor_train": {"rank": 3}}
    card = Card(
        encoder=Named(name=name, knobs=knobs), channels=1, size=(16, 16),
        preprocessing={}, training={},
    )  # fmt: skip
    encoder, images = tiny(name, tensor_train={"rank": 3}).eval(), torch.randn(2, 1, 16, 16)

    save_release(tmp_path / "encoder.safetensors", encoder.state_dict(), card)
    again, _ = load_release(tmp_path / "encoder.safetensors")

    assert torch.equal(again(images), encoder(images))


def test_a_model_of_cores_is_checked_without_memory() -> None:
    encoder = Named(name="resnet", knobs={"tensor_train": {"rank": 8}})

    must_build(Named(name="byol", knobs={}), encoder, channels=3, size=(64, 64))


def test_a_rank_of_nothing_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"tensor_train.*rank is 0"):
        ENCODERS.configure(Named(name="resnet", knobs={"tensor_train": {"rank": 0}}))
