"""Perceptrons that methods put on an encoder; they normalise each image alone, never a batch.

Batch statistics would mix patients (no per-image loss, no bound for differential privacy) and would
be averaged wrongly between sites whose images differ.

Shapes: B images, F features.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Learned(nn.Module):
    """Learned values in place of what is hidden, as a module of one input.

    A module, for the hooks that measure each image's gradient for differential privacy see modules.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(shape) * 0.02)

    def forward(self, like: Tensor) -> Tensor:
        """Return the values, repeated to the shape and in the type of *like*."""
        return self.values.to(like.dtype).expand_as(like)


def perceptron(widths: Sequence[int], *, norm_last: bool = False) -> nn.Sequential:
    """Return linear layers from widths[0] to widths[-1], LayerNorm and ReLU between them.

    With *norm_last*, a LayerNorm without weights ends it: each output has mean 0 and variance 1.
    The last layer has no bias, which would let all images share an output at no cost.
    """
    *hidden, last = widths[1:]
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after, bias=False), nn.LayerNorm(after), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], last, bias=False))
    if norm_last:
        layers.append(nn.LayerNorm(last, elementwise_affine=False))
    return nn.Sequential(*layers)


def in_one_pass(network: Callable[[Tensor], Tensor], *views: Tensor) -> tuple[Tensor, ...]:
    """Apply *network* to all views at once: exact, since nothing in it depends on a batch."""
    return network(torch.cat(views)).float().chunk(len(views))
