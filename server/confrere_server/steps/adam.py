"""FedAdam: every weight moves by its own scale of past updates. https://arxiv.org/abs/2003.00295."""

from typing import Annotated

import torch
from pydantic import Field

from confrere_common.section import section
from confrere_common.weights import Weights, combine
from confrere_server.step import StepState


@section
class Config:
    """A weight whose updates keep their sign moves by up to lr a round, however small they are."""

    lr: Annotated[float, Field(gt=0)] = 0.01
    """Largest usual move of a weight in a round."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of the mean update is remembered."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """How much of the mean squared update is remembered."""

    tau: Annotated[float, Field(gt=0)] = 1e-3
    """Updates well below it move a weight in proportion, those well above it by about lr."""


def adam(
    weights: Weights, delta: Weights, state: StepState, config: Config
) -> tuple[Weights, StepState]:
    """Return float32 weights + lr * m / (sqrt(v) + tau), the paper's Algorithm 2.

    m starts at 0 and v at tau ** 2; as in the paper nothing corrects the bias of the first rounds.
    """
    old_m = {name: state[f"m.{name}"] if state else torch.zeros(()) for name in delta}
    old_v = {name: state[f"v.{name}"] if state else torch.tensor(config.tau**2) for name in delta}
    m = combine(lambda d, m: config.beta1 * m + (1 - config.beta1) * d.float(), delta, old_m)
    v = combine(lambda d, v: _spread(d.float().square(), v, config), delta, old_v)
    moved = combine(
        lambda w, m, v: w.float() + config.lr * m / (v.sqrt() + config.tau), weights, m, v
    )
    return moved, {f"m.{n}": t for n, t in m.items()} | {f"v.{n}": t for n, t in v.items()}


def _spread(square: torch.Tensor, v: torch.Tensor, config: Config) -> torch.Tensor:
    return config.beta2 * v + (1 - config.beta2) * square
