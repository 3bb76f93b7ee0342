"""Server steps that give every weight its own scale, of past updates. https://arxiv.org/abs/2003.00295.

The paper's Algorithm 2; its steps differ in how the scale follows the updates, and in that alone.
"""

from collections.abc import Callable
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

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
    """How slowly the squared scale of a weight follows its squared updates; 0 is at once."""

    tau: Annotated[float, Field(gt=0)] = 1e-3
    """Updates well below it move a weight in proportion, those well above it by about lr."""


Follow: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""``(squared update, squared scale v, beta2) -> the next v``."""


def move(
    weights: Weights, delta: Weights, state: StepState, config: Config, follow: Follow
) -> tuple[Weights, StepState]:
    """Return float32 weights + lr * m / (sqrt(v) + tau).

    m starts at 0 and v at tau ** 2; as in the paper nothing corrects the bias of the first rounds.
    """
    old_m = {name: state[f"m.{name}"] if state else torch.zeros(()) for name in delta}
    old_v = {name: state[f"v.{name}"] if state else torch.tensor(config.tau**2) for name in delta}
    m = combine(lambda d, m: config.beta1 * m + (1 - config.beta1) * d.float(), delta, old_m)
    v = combine(lambda d, v: follow(d.float().square(), v, config.beta2), delta, old_v)
    moved = combine(
        lambda w, m, v: w.float() + config.lr * m / (v.sqrt() + config.tau), weights, m, v
    )
    return moved, {f"m.{n}": t for n, t in m.items()} | {f"v.{n}": t for n, t in v.items()}
