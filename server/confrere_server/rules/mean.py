"""The mean update, each site weighing as much as its images (FedAvg). https://arxiv.org/abs/1602.05629."""

from collections.abc import Iterable

import torch

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_common.weights import Weights
from confrere_server.rule import rule


@rule(sum_only=True)
def mean(updates: Iterable[Update], config: NoKnobs) -> Weights:  # noqa: ARG001
    """Return the image-weighted mean update. One pass, memory of one model beside the update read.

    An update from no images counts for nothing. RoundError if no update counts.
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
    """Move *joined*, in place, by *share* of the way to *update*; the first becomes a copy.

    A running mean keeps the size of one update, so float32 suffices for any number of images, and
    equal updates join to exactly themselves.
    """
    _must_be_float(update)
    if not joined:
        return {name: delta.to(torch.float32, copy=True) for name, delta in update.delta.items()}
    for name, delta in update.delta.items():
        joined[name].lerp_(delta.to(torch.float32), share)
    return joined


def _must_be_float(update: Update) -> None:
    for name, delta in update.delta.items():
        if not delta.is_floating_point():
            raise ExchangeError(
                f"'{name}' from site '{update.site}' holds {delta.dtype}, which has no mean; share "
                "float parameters only and leave counters and other buffers at the site."
            )
