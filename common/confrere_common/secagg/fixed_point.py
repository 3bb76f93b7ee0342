"""Updates as whole numbers modulo 2 ** 32, so that masks vanish without a trace of rounding.

Shapes: P entries of all tensors by name, then two more: the site's weight, and a one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_common.errors import ExchangeError
from confrere_common.weights import Weights, count

Vector: TypeAlias = NDArray[np.uint32]

EXTRA = 2
"""Slots after the entries: the weight in images, and a one that proves how many were summed."""

CHUNK = 1 << 17
"""Entries worked on at a time: they stay in the processor's cache, and memory is bounded."""

LOST_AT_MOST = 0.01
"""Share of an update's energy that clipping may take."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """How a value becomes a whole number."""

    bits: int
    clip: float
    weight_max: int

    @property
    def levels(self) -> int:
        """Return the whole number that stands for ``clip`` at full weight."""
        return int(2 ** (self.bits - 1) - 1)

    def counted(self, images: int) -> int:
        """Return what a site with so many images counts for."""
        return min(images, self.weight_max)


def to_fixed(
    delta: Weights, images: int, point: FixedPoint, generator: np.random.Generator
) -> Vector:
    """Return *delta* times its share of ``weight_max``, clipped and rounded at random.

    Rounding is stochastic, so its expectation is the value: errors of many sites average out.
    ExchangeError when an entry is no number, or when clipping would take more than a hundredth of
    the update's energy (its squared norm).
    """
    weight = point.counted(images)
    vector = np.empty(count(delta) + EXTRA, np.uint32)
    total = lost = 0.0
    for place, part in _chunks(delta):
        there = vector[place : place + len(part)]
        energy, cut = _round(part, there, weight, point, generator)
        total, lost = total + energy, lost + cut
    vector[-EXTRA:] = (weight, 1)
    _must_be_sound(total, lost, point)
    return vector


def from_fixed(total: Vector, template: Weights, point: FixedPoint) -> tuple[Weights, int, int]:
    """Return the weighted mean that a sum stands for, the images in it, and the sites in it.

    *total* is overwritten, and the tensors returned share its memory: no second model is held.
    """
    images, sites = (int(one) for one in total[-EXTRA:])
    values = total[:-EXTRA].view(np.float32)
    unit = point.clip * point.weight_max / (point.levels * max(images, 1))
    for start in range(0, len(values), CHUNK):
        whole = total[start : min(start + CHUNK, len(values))].view(np.int32)
        values[start : start + CHUNK] = whole.astype(np.float64) * unit
    return _named(values, template), images, sites


def _chunks(delta: Weights) -> Iterator[tuple[int, NDArray[np.float32]]]:
    place = 0
    for name in sorted(delta):
        flat = delta[name].detach().reshape(-1).to(torch.float32).numpy()
        for start in range(0, len(flat), CHUNK):
            yield place + start, flat[start : start + CHUNK]
        place += len(flat)


def _round(
    part: NDArray[np.float32],
    there: Vector,
    weight: int,
    point: FixedPoint,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Write *part* as whole numbers to *there*; return its energy and how much of it was cut."""
    limit = point.levels * weight / point.weight_max
    scaled = part.astype(np.float64)
    scaled *= limit / point.clip
    energy = float(scaled @ scaled)
    cut = 0.0
    if not (scaled.max() <= limit and scaled.min() >= -limit):
        np.clip(scaled, -limit, limit, out=scaled)
        cut = energy - float(scaled @ scaled)
    scaled += generator.random(len(part), np.float32)
    np.floor(scaled, out=scaled)
    with np.errstate(invalid="ignore"):  # what is no number is told by its energy
        there[:] = scaled.astype(np.int32).view(np.uint32)
    return energy, cut


def _must_be_sound(total: float, lost: float, point: FixedPoint) -> None:
    if not np.isfinite(total):
        raise ExchangeError("the update holds NaN or infinite entries, so it was not masked")
    if lost > LOST_AT_MOST * total:
        raise ExchangeError(
            f"secure_aggregation.clip ({point.clip:g}) would cut {lost / total:.0%} of the "
            "update's energy; raise it, or lower train.lr or the steps of a round"
        )


def _named(values: NDArray[np.float32], template: Weights) -> Weights:
    found, place = {}, 0
    for name in sorted(template):
        size = template[name].numel()
        part = torch.from_numpy(values[place : place + size])
        found[name] = part.reshape(template[name].shape)
        place += size
    return {name: found[name] for name in template}
