"""FedAvgM: the joined updates of earlier rounds go on pushing. https://arxiv.org/abs/1909.06335."""

from typing import Annotated

import torch
from pydantic import Field

from confrere_common.section import section
from confrere_common.weights import Weights, combine
from confrere_server.step import StepState


@section
class Config:
    """With momentum m, steady updates move the weights 1 / (1 - m) times as far as plain does."""

    lr: Annotated[float, Field(gt=0)] = 1.0
    """How much of the gathered update is taken."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of the last round's push is kept."""


def momentum(
    weights: Weights, delta: Weights, state: StepState, config: Config
) -> tuple[Weights, StepState]:
    """Return float32 weights + lr * m, where m = momentum * m + delta and starts at zero."""
    kept = {name: state[f"m.{name}"] if state else torch.zeros(()) for name in delta}
    push = combine(lambda d, m: d.float() + config.momentum * m, delta, kept)
    moved = combine(lambda w, m: w.float().add(m, alpha=config.lr), weights, push)
    return moved, {f"m.{name}": m for name, m in push.items()}
