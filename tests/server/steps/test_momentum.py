"""The momentum step follows FedAvgM."""

import torch

from confrere_server.steps.momentum import Config, momentum


def test_rounds_follow_the_formula() -> None:
    config = Config(lr=0.5, momentum=0.9)
    weights, state = {"w": torch.tensor(1.0)}, {}
    expected, push = 1.0, 0.0

    for delta in (2.0, -1.0, 0.0, 3.0):
        weights, state = momentum(weights, {"w": torch.tensor(delta)}, state, config)
        push = 0.9 * push + delta
        expected += 0.5 * push

    torch.testing.assert_close(weights["w"], torch.tensor(expected))
    torch.testing.assert_close(state["m.w"], torch.tensor(push))


def test_without_momentum_it_is_plain() -> None:
    config = Config(momentum=0.0)

    one, state = momentum({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}, {}, config)
    two, _ = momentum(one, {"w": torch.tensor(5.0)}, state, config)

    assert (one["w"].item(), two["w"].item()) == (3, 8)
