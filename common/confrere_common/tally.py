"""What a site tells of scores of 0 to 1: how many, in cells of a grid that all sites share.

A *tally* is a histogram over scores of 0 to 1 in which a site joined neighbouring cells until none
was small; so each cell is a range of the grid and a count of images. The grid is fine near 0 and 1,
where a sure classifier's scores crowd: its edges are even in the logit from -8 to 8.

Shapes: E edges of the grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_common.errors import ExchangeError

STEPS = 1024
"""Steps of the grid: a power of two, as cells are found by halving."""

EDGES: NDArray[np.float64] = np.concatenate(
    [[0.0], 1 / (1 + np.exp(-np.linspace(-8, 8, STEPS - 1))), [1.0]]
)
"""Where steps begin, and where the last one ends."""

IMAGES_AT_MOST = 10**9
"""A count above it is a mistake or worse."""

Cell: TypeAlias = tuple[int, int, int]
"""First step, step after the last, images."""


@dataclass(frozen=True, kw_only=True)
class ClassTally:
    """Of one class against the rest: scores of its images, and scores of the others.

    Of one structure in a segmentation: the Dice of images that have it, and of those that lack it.
    Of what is normal: how normal these images look, and how all others do. Of a class that is
    searched for: the precision of its queries, and nothing of others.
    """

    kind: int
    positives: tuple[Cell, ...]
    negatives: tuple[Cell, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        sides = {"positives": self.positives, "negatives": self.negatives}
        return {
            "kind": self.kind,
            **{side: [list(c) for c in cells] for side, cells in sides.items()},
        }


def step_of(scores_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the step of the grid in which each score lies; a step holds its lower edge."""
    return np.clip(np.searchsorted(EDGES, scores_N, side="right") - 1, 0, STEPS - 1)


def read_tally(plain: Mapping[str, Any], classes: int) -> ClassTally:
    """Return the tally that came over the wire; ExchangeError unless its cells are sound."""
    try:
        kind = plain["kind"]
        sides = [_cells(plain[side]) for side in ("positives", "negatives")]
    except (KeyError, TypeError, ValueError):
        raise ExchangeError(
            "a tally of scores is no tally: the site runs another version."
        ) from None
    if type(kind) is not int or not 0 <= kind < classes:
        raise ExchangeError(f"a tally is of class {kind!r:.40}, but there are 0 to {classes - 1}.")
    if not any(sides):
        raise ExchangeError("a tally holds no count at all.")
    return ClassTally(kind=kind, positives=sides[0], negatives=sides[1])


def _cells(rows: Sequence[Sequence[Any]]) -> tuple[Cell, ...]:
    """Return cells that follow one another and hold something; ValueError for any others."""
    if not isinstance(rows, Sequence) or len(rows) > STEPS:
        raise ValueError
    cells: list[Cell] = []
    reached = 0
    for first, after, images in rows:
        if any(type(value) is not int for value in (first, after, images)):
            raise TypeError
        if not reached <= first < after <= STEPS or not 0 < images < IMAGES_AT_MOST:
            raise ValueError
        cells.append((first, after, images))
        reached = after
    return tuple(cells)
