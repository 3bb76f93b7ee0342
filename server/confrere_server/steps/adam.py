"""FedAdam: every weight moves by its own scale of past updates. https://arxiv.org/abs/2003.00295."""

from torch import Tensor

from confrere_common.weights import Weights
from confrere_server.adaptive import Config, move
from confrere_server.step import StepState


def adam(
    weights: Weights, delta: Weights, state: StepState, config: Config
) -> tuple[Weights, StepState]:
    """Return the moved weights; the squared scale is a moving mean of squared updates."""
    return move(weights, delta, state, config, _follow)


def _follow(square: Tensor, v: Tensor, beta2: float) -> Tensor:
    return beta2 * v + (1 - beta2) * square
