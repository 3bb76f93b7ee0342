"""What is truly in a phantom image: a mask of its lesions, and a box around each of them.

Shapes: [Z] Y X voxels (Z only in 3-D), N lesions, D axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The lesions of one image."""

    mask: NDArray[np.uint8]
    """([Z], Y, X): 1 in a lesion, else 0."""

    boxes: NDArray[np.int64]
    """(N, 2 D): first voxel along [z] y x, then the one after the last: y0, x0, y1, x1 in 2-D."""


SPECK = 20
"""A piece so many times smaller than the largest was cut off by an edge and is no lesion."""


def truth_of(mask_ZYX: NDArray[np.bool_]) -> Truth:
    """Return the truth of a mask, less its specks; lesions that touch along an axis are one."""
    numbers = _components(mask_ZYX)
    found, counts = np.unique(numbers[mask_ZYX], return_counts=True)
    lesions = found[counts * SPECK >= np.max(counts, initial=0)]
    boxes = [_box(numbers == number) for number in lesions]
    return Truth(
        mask=np.isin(numbers, lesions).astype(np.uint8),
        boxes=np.asarray(boxes, np.int64).reshape(-1, 2 * mask_ZYX.ndim),
    )


def _components(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a number for each voxel of the mask, the same within a component and 0 outside.

    Each voxel takes the largest number beside it until nothing changes.
    """
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = numbers.copy()
        for axis in range(mask.ndim):
            low, high = np.moveaxis(spread, axis, 0)[:-1], np.moveaxis(spread, axis, 0)[1:]
            np.maximum(high, low, out=high)
            np.maximum(low, high, out=low)
            spread[~mask] = 0
        if np.array_equal(spread, numbers):
            return numbers
        numbers = spread


def _box(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    where = np.nonzero(mask)
    return (*(int(line.min()) for line in where), *(int(line.max()) + 1 for line in where))
