"""Add the joined update to the weights: with lr 1, federated averaging. https://arxiv.org/abs/1602.05629."""

from typing import Annotated

from pydantic import Field

from confrere_common.section import section
from confrere_common.weights import Weights, combine
from confrere_server.step import StepState


@section
class Config:
    """The default is FedAvg."""

    lr: Annotated[float, Field(gt=0)] = 1.0
    """How much of the joined update is taken."""


def plain(
    weights: Weights,
    delta: Weights,
    state: StepState,  # noqa: ARG001
    config: Config,
) -> tuple[Weights, StepState]:
    """Return float32 weights + lr * delta; nothing is remembered."""
    moved = combine(lambda w, d: w.float().add(d.float(), alpha=config.lr), weights, delta)
    return moved, {}
