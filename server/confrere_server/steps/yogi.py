"""FedYogi: FedAdam whose scale forgets large updates slowly. https://arxiv.org/abs/2003.00295."""

import torch
from torch import Tensor

from confrere_common.weights import Weights
from confrere_server.adaptive import Config, move
from confrere_server.step import StepState


def yogi(
    weights: Weights, delta: Weights, state: StepState, config: Config
) -> tuple[Weights, StepState]:
    """Return the moved weights; the squared scale moves by the squared update alone, up or down."""
    return move(weights, delta, state, config, _follow)


def _follow(square: Tensor, v: Tensor, beta2: float) -> Tensor:
    return v - (1 - beta2) * square * torch.sign(v - square)
