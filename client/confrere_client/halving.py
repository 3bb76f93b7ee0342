"""Counts in cells that are never small: a grid is halved while a half holds enough patients.

Shapes: N images.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from confrere_common.tally import STEPS, Cell


def cells(
    step_N: NDArray[np.int64], patients_N: NDArray[np.int64], smallest: int
) -> tuple[Cell, ...]:
    """Return ranges of the grid with their images, none of fewer than *smallest* patients.

    Empty where all of them together are fewer.
    """
    order_N = np.argsort(step_N, kind="stable")
    step_N, patients_N = step_N[order_N], patients_N[order_N]
    if len(np.unique(patients_N)) < smallest:
        return ()
    parts = list(_halved((0, STEPS), step_N, patients_N, smallest))
    return tuple(
        (first, after, int(np.searchsorted(step_N, after) - np.searchsorted(step_N, first)))
        for first, after in _joined(parts, step_N, patients_N, smallest)
    )


Range = tuple[int, int]


def _halved(
    part: Range, step_N: NDArray[np.int64], patients_N: NDArray[np.int64], smallest: int
) -> Iterator[Range]:
    """Yield the ranges that halving comes to, in order; an empty one is left out."""
    count = _within(part, step_N, patients_N)
    first, after = part
    if not count:
        return
    if count < smallest or after - first == 1:
        yield part
        return
    middle = (first + after) // 2
    yield from _halved((first, middle), step_N, patients_N, smallest)
    yield from _halved((middle, after), step_N, patients_N, smallest)


def _joined(
    parts: list[Range], step_N: NDArray[np.int64], patients_N: NDArray[np.int64], smallest: int
) -> list[Range]:
    """Join each range that is too small to those after it, the last of all to the one before."""
    done: list[Range] = []
    begun: Range | None = None
    for first, after in parts:
        begun = (begun[0] if begun else first, after)
        if _within(begun, step_N, patients_N) >= smallest:
            done.append(begun)
            begun = None
    if begun:
        done[-1:] = [(done[-1][0], begun[1])]
    return done


def _within(part: Range, step_N: NDArray[np.int64], patients_N: NDArray[np.int64]) -> int:
    """Return the patients behind the images of a range; steps ascend."""
    rows = slice(*np.searchsorted(step_N, part))
    return len(np.unique(patients_N[rows]))
