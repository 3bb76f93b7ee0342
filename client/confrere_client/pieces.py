"""A step's loss in pieces: the same gradient from less memory, where images stand alone.

Shapes: B images.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Losses = Callable[..., Tensor]
"""Views, each of B, -> one loss an image (B)."""


@dataclass(kw_only=True)
class Pieces:
    """In how many pieces a batch is computed; more of them each time that memory runs out."""

    apart: bool
    """Whether a method's losses treat each image alone: only then may a batch be divided."""

    count: int = 1

    def backward(
        self,
        losses: Losses,
        views: Sequence[Tensor],
        arithmetic: Callable[[], AbstractContextManager[object]],
        parameters: Sequence[Tensor],
    ) -> Tensor:
        """Leave the gradient of the mean loss in *parameters* and return the loss.

        torch.OutOfMemoryError when one image a piece is still too much, or the batch is one whole.
        """
        while True:
            for parameter in parameters:
                parameter.grad = None
            try:
                return self._backward(losses, views, arithmetic)
            except torch.OutOfMemoryError:
                if not self.apart or self.count >= len(views[0]):
                    raise
            # Out of the handler, which holds the graph that did not fit.
            self.count = min(2 * self.count, len(views[0]))
            log.warning("memory ran out; a step is now computed in %d pieces", self.count)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _backward(
        self,
        losses: Losses,
        views: Sequence[Tensor],
        arithmetic: Callable[[], AbstractContextManager[object]],
    ) -> Tensor:
        if self.count == 1:
            with arithmetic():
                loss = losses(*views).float().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        images = len(views[0])
        total = torch.zeros((), device=views[0].device)
        for parts in zip(*(view.chunk(self.count) for view in views), strict=True):
            with arithmetic():
                part = losses(*parts).float().sum() / images
            part.backward()  # type: ignore[no-untyped-call]
            total += part.detach()
        return total
