"""Every server step keeps the contract, unasked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from confrere_common.family import Named
from confrere_common.weights import Weights
from confrere_server.step import STEPS, StepState, by_weight


def take(
    name: str, weights: Weights, delta: Weights, state: StepState
) -> tuple[Weights, StepState]:
    return STEPS.member(name)(weights, delta, state, STEPS.configure(Named(name=name, knobs={})))


def random_weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (3, 2, 3, 3), "conv.bias": (3,), "scale": (), "none": (0, 4)}
    drawn = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {key: tensor.to(dtype) for key, tensor in drawn.items()}


def same(left: Weights, right: Weights) -> bool:
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(params=STEPS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_nothing_that_comes_in_is_changed(name: str) -> None:
    weights, delta = random_weights(0), random_weights(1)
    _, state = take(name, weights, delta, {})
    before = {key: tensor.clone() for key, tensor in state.items()}

    moved, fresh = take(name, weights, delta, state)
    for tensor in (*moved.values(), *fresh.values()):
        tensor.fill_(99)

    assert same(weights, random_weights(0))
    assert same(delta, random_weights(1))
    assert same(state, before)


def test_the_same_round_twice_gives_the_same_weights(name: str) -> None:
    weights, delta = random_weights(0), random_weights(1)

    one, two = take(name, weights, delta, {}), take(name, weights, delta, {})

    assert same(one[0], two[0])
    assert same(one[1], two[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_all_that_comes_out_is_float32(name: str, dtype: torch.dtype) -> None:
    weights, state = take(name, random_weights(0, dtype), random_weights(1, dtype), {})
    weights, state = take(name, weights, random_weights(2, dtype), state)

    assert {tensor.dtype for tensor in (*weights.values(), *state.values())} == {torch.float32}
    assert all(weights[key].shape == tensor.shape for key, tensor in random_weights(0).items())


def test_a_step_of_all_weights_is_the_steps_of_each(name: str) -> None:
    weights, delta = random_weights(0), random_weights(1)
    _, state = take(name, weights, delta, {})
    known = by_weight(state)

    whole = take(name, weights, delta, state)
    each = [
        take(name, {key: weights[key]}, {key: delta[key]}, known.get(key, {})) for key in weights
    ]

    assert same(whole[0], {key: one for moved, _ in each for key, one in moved.items()})
    parts = {key: one for _, kept in each for key, one in kept.items()}
    assert whole[1].keys() == parts.keys()
    assert all(torch.equal(whole[1][key], one) for key, one in parts.items())


def test_the_state_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    weights, state = take(name, random_weights(0), random_weights(1), {})
    save_file(dict(state), tmp_path / "state.safetensors")
    restored = load_file(tmp_path / "state.safetensors")

    straight, resumed = (take(name, weights, random_weights(2), s) for s in (state, restored))

    assert same(straight[0], resumed[0])


def test_an_update_of_zeros_leaves_fresh_weights_where_they_are(name: str) -> None:
    weights = random_weights(0)
    zeros = {key: torch.zeros_like(tensor) for key, tensor in weights.items()}

    moved, _ = take(name, weights, zeros, {})

    assert same(moved, weights)


def test_the_first_move_goes_where_the_update_points(name: str) -> None:
    weights, delta = random_weights(0), random_weights(1)

    moved, _ = take(name, weights, delta, {})

    assert all(((moved[k] - weights[k]) * delta[k] > 0).all() for k in weights)
