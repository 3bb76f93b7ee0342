"""Self-distillation: a student's distribution over prototypes follows its teacher's, centred.

The parts that DINO (https://arxiv.org/abs/2104.14294) and its descendants share.

Shapes: B images, F features, K prototypes; ... any number of axes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize

from confrere_common.parts.heads import Scaled, perceptron


class Prototypes(nn.Module):
    """Likeness (cosine) of features, projected, to each of K learned directions.

    As in DINO without batch normalisation, but that the perceptron has learned gains and offsets,
    which ``heads.calibrate`` may set (GELU in the paper, ReLU here), and that the last layer moves
    from the first step on; the paper froze it for an epoch.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, count: int) -> None:
        super().__init__()
        widths = (width, hidden, hidden, bottleneck)
        self.project = perceptron(widths, norm=Scaled, norm_last=True)
        self.directions = nn.Linear(bottleneck, count, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return cosines of shape (..., K)."""
        return linear(normalize(self.project(features), dim=-1), normalize(self.directions.weight))


class Centre(nn.Module):
    """The moving mean of a teacher's scores, taken away so that no prototype wins always.

    The mean already counts the batch at hand, in the paper from the next step on: the loss is then
    a function of the views and of what the site keeps, and shows truly that images are coupled. A
    mean of private images stays at its site.
    """

    def __init__(self, count: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.middle_K: Tensor
        self.register_buffer("middle_K", torch.zeros(count))
        self._next_K: Tensor | None = None

    @torch.no_grad()
    def forward(self, scores: Tensor) -> Tensor:
        """Return centred scores; nothing is kept of them before ``step``."""
        mean_K = scores.flatten(0, -2).mean(0)
        self._next_K = self.middle_K.to(mean_K.dtype).lerp(mean_K, 1 - self.momentum)
        return scores - self._next_K

    @torch.no_grad()
    def step(self) -> None:
        """Keep what the last batch made of the mean."""
        if self._next_K is not None:
            self.middle_K.copy_(self._next_K)
            self._next_K = None

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all."""
        self._next_K = None
        self.middle_K.zero_()


def sharpened(scores: Tensor, temperature: float) -> Tensor:
    """Return a teacher's distribution over the prototypes, (..., K)."""
    return (scores / temperature).softmax(-1)


def surprise(targets: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of a student's scores under the targets, shape (...)."""
    return -(targets * log_softmax(scores / temperature, dim=-1)).sum(-1)
