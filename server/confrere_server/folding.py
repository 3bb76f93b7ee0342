"""Weighted means of a stream of updates, folded as they come: one pass, memory of one model."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Update
from confrere_common.weights import Weights, forms

Weigh: TypeAlias = Callable[[Update], float | Mapping[str, float]]
"""What an update weighs: as a whole, or each of its layers."""

NOTHING = (
    "no update came from any image, so there is nothing to join; see why the sites were "
    "left out of the round, and ask again."
)


def fold(updates: Iterable[Update], weigh: Weigh) -> Weights:
    """Return the weighted mean of *updates*, layer by layer; RoundError if none counts.

    The first update that counts is used up: its own memory becomes the mean's. An update from no
    images counts for nothing.
    """
    joined: Weights = {}
    totals: dict[str, float] = {}
    for update in updates:
        if update.images > 0:
            must_be_float(update)
            shares = _shares(update, weigh(update), totals)
            joined = _folded(joined, update, shares) if joined else _taken_over(update.delta)
        # While the next update is made, this one must already be gone: else two are held.
        del update
    if not joined:
        raise RoundError(NOTHING)
    return joined


def _shares(
    update: Update, weight: float | Mapping[str, float], totals: dict[str, float]
) -> Mapping[str, float]:
    """Return how far each layer moves towards *update*, and add its weight to *totals*."""
    shares = {}
    for name in update.delta:
        one = weight[name] if isinstance(weight, Mapping) else weight
        totals[name] = totals.get(name, 0) + one
        shares[name] = one / totals[name] if totals[name] else 0.0
    return shares


def _folded(joined: Weights, update: Update, shares: Mapping[str, float]) -> Weights:
    """Move *joined*, in place, by its share of the way to *update*.

    A running mean keeps the size of one update, so float32 suffices for any number of images, and
    equal updates join to exactly themselves.
    """
    in_memory = isinstance(update.delta, dict)  # from a file they are read, and folded, one by one
    alike = {dtype for _, dtype in forms(update.delta).values()} == {torch.float32}
    if in_memory and alike and len({*shares.values()}) == 1:
        whole = [joined[name] for name in update.delta]
        torch._foreach_lerp_(whole, [*update.delta.values()], next(iter(shares.values())))
        return joined
    for name, delta in update.delta.items():
        one = delta if delta.dtype == torch.float32 else delta.to(torch.float32)
        joined[name].lerp_(one, shares[name])
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


def must_be_float(update: Update) -> None:
    """Raise ExchangeError for an update that holds anything but floats."""
    for name, (_, dtype) in forms(update.delta).items():
        if not dtype.is_floating_point:
            raise ExchangeError(
                f"'{name}' from site '{update.site}' holds {dtype}, which has no mean; share "
                "float parameters only and leave counters and other buffers at the site."
            )


def cosine(old: Tensor, delta: Tensor) -> float:
    """Return the cosine between a layer before and after its change.

    1 of scalars, and of what is all zeros before or after: that has no direction to turn from.
    """
    start = old.double().flatten()
    end = start + delta.double().flatten()
    lengths = float(start.norm()) * float(end.norm())
    return float(start @ end) / lengths if len(start) > 1 and lengths > 0 else 1.0
