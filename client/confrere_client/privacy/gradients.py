"""Clipped gradients of patients, the reference: each patient's loss by itself, mapped over them.

Whatever a method does, a gradient here is that of one patient's own views, because nothing else is
handed to the loss; a faster engine (``ghost``) must prove that it gives the same.

Shapes: P patients of a micro-batch, K images of each (padded), R = P * K rows; a view is
``(P, K, ...)``, a gradient ``(P, ...)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from confrere_common.method import Method
from confrere_common.privacy.mechanism import clipped_sum

Views: TypeAlias = tuple[Tensor, ...]
"""What a method drew of images; the first axis of each is the image's."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The views of some patients, padded to equally many images each."""

    views: Views
    """Each ``(P, K, ...)``; beyond a patient's own images its last one is repeated."""

    weights_PK: Tensor
    """What each image counts in its patient's loss: 1 / images, 0 beyond them."""

    @property
    def rows(self) -> Views:
        """Return the views with patients and images in one axis, (R, ...)."""
        return tuple(view.flatten(0, 1) for view in self.views)


Engine: TypeAlias = Callable[[Method, Drawn, float], dict[str, Tensor]]
"""Model, patients, clip norm -> parameter name -> sum of the patients' clipped gradients.

Guarantee: no patient, whatever the images are, moves the sum by more than the clip norm.
"""


def padded(patients: Sequence[Views]) -> Drawn:
    """Return the views of patients, of any number of images each, side by side."""
    counts = [len(views[0]) for views in patients]
    most = max(counts)
    places = [torch.arange(most).clamp(max=count - 1) for count in counts]
    columns = zip(*patients, strict=True)
    views = tuple(
        torch.stack([view[place] for view, place in zip(column, places, strict=True)])
        for column in columns
    )
    counts_P1 = torch.tensor(counts)[:, None]
    weights_PK = (torch.arange(most) < counts_P1) / counts_P1
    return Drawn(views=views, weights_PK=weights_PK.to(views[0].device))


def vmapped(model: Method, drawn: Drawn, clip_norm: float) -> dict[str, Tensor]:
    """Return the clipped sum by ``vmap(grad(loss of one patient))``: the reference engine."""
    return clipped_sum(each(model, drawn), clip_norm)


def each(model: Method, drawn: Drawn) -> dict[str, Tensor]:
    """Return every patient's gradient of each trained parameter, (P, ...)."""
    losses = _Losses(model)

    def loss(weights: dict[str, Tensor], weights_K: Tensor, *views: Tensor) -> Tensor:
        losses_K: Tensor = functional_call(losses, weights, views)
        return (losses_K * weights_K).sum()

    own = {f"model.{name}": p.detach() for name, p in trained(model).items()}
    over = (None, 0, *(0 for _ in drawn.views))
    # The CPU's fused attention cannot be mapped.
    with sdpa_kernel(SDPBackend.MATH):
        found = vmap(grad(loss), in_dims=over)(own, drawn.weights_PK, *drawn.views)
    return {name.removeprefix("model."): gradient for name, gradient in found.items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training moves."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class _Losses(nn.Module):
    """A method's losses as the forward pass of a module."""

    def __init__(self, model: Method) -> None:
        super().__init__()
        self.model = model

    def forward(self, *views: Tensor) -> Tensor:
        return self.model.losses(*views)
