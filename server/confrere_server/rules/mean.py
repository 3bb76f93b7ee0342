"""The mean update, each site weighing as much as its images (FedAvg). https://arxiv.org/abs/1602.05629."""

from collections.abc import Iterable

import torch
from torch import Tensor

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_common.weights import Weights
from confrere_server.rule import rule


@rule(sum_only=True)
def mean(updates: Iterable[Update], config: NoKnobs) -> Weights:  # noqa: ARG001
    """Return the image-weighted mean update. One pass, memory of one model beside the update read.

    The first update that counts is used up: its own memory becomes the mean's. An update from no
    images counts for nothing. RoundError if no update counts.
    """
    joined: Weights = {}
    images = 0
    for update in updates:
        if update.images > 0:
            images += update.images
            joined = _folded(joined, update, update.images / images)
        # While the next update is made, this one must already be gone: else two are held.
        del update
    if not joined:
        raise RoundError(
            "no update came from any image, so there is nothing to join; see why the sites were "
            "left out of the round, and ask again."
        )
    return joined


def _folded(joined: Weights, update: Update, share: float) -> Weights:
    """Move *joined*, in place, by *share* of the way to *update*; the first is taken over.

    A running mean keeps the size of one update, so float32 suffices for any number of images, and
    equal updates join to exactly themselves.
    """
    _must_be_float(update)
    if not joined:
        return _taken_over(update.delta)
    for name, delta in update.delta.items():
        one = delta if delta.dtype == torch.float32 else delta.to(torch.float32)
        joined[name].lerp_(one, share)
    return joined


def _taken_over(delta: Weights) -> Weights:
    """Return tensors to fold into: those of *delta*, or a copy of what cannot be changed in place.

    Fresh memory would cost more than a fold: the system has to hand over every page of it.
    """
    joined: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in delta.items():
        place = tensor.data_ptr()
        alone = place not in taken  # one tensor under two names would be folded into twice
        plain = tensor.is_contiguous() and not tensor.requires_grad and not tensor.is_inference()
        joined[name] = tensor.detach().to(torch.float32, copy=not (alone and plain))
        taken.add(place)
    return joined


def _must_be_float(update: Update) -> None:
    for name, delta in update.delta.items():
        if not delta.is_floating_point():
            raise ExchangeError(
                f"'{name}' from site '{update.site}' holds {delta.dtype}, which has no mean; share "
                "float parameters only and leave counters and other buffers at the site."
            )
