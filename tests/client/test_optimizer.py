"""AdamW by name: what decays, and moments that can be put away and taken up in bits."""

import pytest
import torch
from tiny_runs import tiny_run
from torch import nn

from confrere_client.optimizer import clip, make_optimizer, moments, restore, set_rate
from confrere_common.config import Train
from confrere_common.method import METHODS
from confrere_common.model import build_model

TRAIN = Train(lr=0.1, weight_decay=0.5, device="cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad(set_to_none=True)
    model(images).square().mean().backward()
    optimizer.step()


def test_matrices_decay_and_biases_and_gains_do_not() -> None:
    model = network()

    groups = make_optimizer(model, TRAIN).param_groups

    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decays[id(p)] for name, p in model.named_parameters()}
    assert found == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.5,
    }


def test_what_is_frozen_is_not_trained() -> None:
    model = network()
    model[0].requires_grad_(False)

    groups = make_optimizer(model, TRAIN).param_groups

    assert sum(len(group["params"]) for group in groups) == 3


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_s_model_can_be_optimised(method: str) -> None:
    model = build_model(tiny_run(method), seed=0)

    groups = make_optimizer(model, TRAIN).param_groups

    trained = sum(len(group["params"]) for group in groups)
    assert trained == sum(p.requires_grad for p in model.parameters())


def test_fresh_optimizers_have_no_moments() -> None:
    model = network()

    assert moments(model, make_optimizer(model, TRAIN)) == {}


def test_moments_put_away_and_taken_up_continue_in_bits() -> None:
    whole, parted = network(), network()
    optimizer = make_optimizer(whole, TRAIN)
    first = make_optimizer(parted, TRAIN)
    for seed in (1, 2):
        step(whole, optimizer, seed)
    step(parted, first, 1)

    second = make_optimizer(parted, TRAIN)
    restore(parted, second, moments(parted, first))
    step(parted, second, 2)

    due = whole.state_dict()
    assert all(torch.equal(tensor, due[name]) for name, tensor in parted.state_dict().items())
    left, right = moments(parted, second), moments(whole, optimizer)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_moments_are_copies_both_ways() -> None:
    model = network()
    optimizer = make_optimizer(model, TRAIN)
    step(model, optimizer, 1)
    kept = moments(model, optimizer)
    before = {name: tensor.clone() for name, tensor in kept.items()}

    restore(model, make_optimizer(model, TRAIN), kept)
    other = make_optimizer(model, TRAIN)
    restore(model, other, kept)
    step(model, other, 2)
    step(model, optimizer, 2)

    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_the_rate_is_set_for_every_group() -> None:
    optimizer = make_optimizer(network(), TRAIN)

    set_rate(optimizer, 0.25)

    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize("most", [1e-3, 1.0, 1e6])
def test_gradients_are_clipped_as_torch_does_it_to_the_bit(most: float) -> None:
    ours, theirs = network(), network()
    for model in (ours, theirs):
        model(torch.ones(2, 4)).square().mean().backward()
        model[1].weight.grad = None  # a layer that rests this round

    clip(list(ours.parameters()), most)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), most)

    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is other.grad is None or torch.equal(one.grad, other.grad)


def test_nothing_to_clip_is_no_fault() -> None:
    clip(list(network().parameters()), 1.0)
