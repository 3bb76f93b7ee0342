"""The component tree of an image: what stands out as the level rises, and what each voxel is of it.

A node is a connected part of the voxels at or above a level that holds a voxel of that level; its
parent is the node around it at the next lower such level (max-tree, https://doi.org/10.1109/
83.663500). A voxel belongs to the node of its own level. Parts are connected over corners.

Level by level, each labelled anew: a pass over the image for each level, and no loop over voxels.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats: TypeAlias = NDArray[np.float32]

ATTRIBUTES = ("area", "depth", "contrast", "compactness")
"""What is told of the node of each voxel, each 0 to 1.

area: logarithm of its voxels, over that of the image's. depth: how many nodes are around it, over
the levels. contrast: levels from its parent up to its brightest voxel, over the levels.
compactness: squared distance of a disc's or ball's voxels from their centre, over that of its own.
"""


def quantised(image_ZYX: NDArray[Any], levels: int) -> NDArray[np.int32]:
    """Return the image in *levels* steps, from its own darkest voxel to its own brightest."""
    values = np.asarray(image_ZYX, np.float64)
    dark, span = values.min(), np.ptp(values)
    if not span:
        return np.zeros(values.shape, np.int32)
    return np.asarray(np.minimum((values - dark) / span * levels, levels - 1), np.int32)


def attributes(
    levels_ZYX: NDArray[np.int32], levels: int, names: Sequence[str] = ATTRIBUTES
) -> dict[str, Floats]:
    """Return *names* of the max-tree's node at every voxel; *levels* are counted from 0."""
    found = {name: np.zeros(levels_ZYX.shape, np.float32) for name in names}
    around = np.zeros(levels_ZYX.shape, np.int32)
    """How many nodes hold a voxel so far."""
    last = np.full(levels_ZYX.shape, levels_ZYX.min(), np.int32)
    """The level of the innermost of them."""
    neighbours = np.ones((3,) * levels_ZYX.ndim, bool)
    for level in np.unique(levels_ZYX):
        here = levels_ZYX == level
        parts, count = ndimage.label(levels_ZYX >= level, neighbours)
        own_V = parts[here]
        if "depth" in found:
            found["depth"][here] = around[here] / max(1, levels - 1)
        if "contrast" in found:
            rise_V = _brightest(parts, count, levels_ZYX)[own_V] - last[here]
            found["contrast"][here] = rise_V / max(1, levels - 1)
        if "area" in found:
            found["area"][here] = _area(parts)[own_V]
        if "compactness" in found:
            found["compactness"][here] = _compactness(parts, count)[own_V]
        is_node = np.zeros(count + 1, bool)
        is_node[own_V] = True
        held = is_node[parts]
        around += held
        last[held] = level
    return found


def _brightest(
    parts: NDArray[np.int32], count: int, levels_ZYX: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the highest level in each part; of what is in none, anything."""
    found = np.zeros(count + 1, np.int32)
    np.maximum.at(found, parts.ravel(), levels_ZYX.ravel())
    return found


def _area(parts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the logarithm of each part's voxels, over that of the image's."""
    voxels = np.maximum(np.bincount(parts.ravel()), 1)
    return np.asarray(np.log(voxels) / np.log(max(parts.size, 2)))


def _compactness(parts: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Return how compact each part is: 1 a disc or ball, a line of n voxels about 1 / n."""
    inside = parts > 0
    parts_V = parts[inside]
    voxels = np.maximum(np.bincount(parts_V, minlength=count + 1), 1).astype(np.float64)
    spread = np.full(count + 1, parts.ndim / 12)  # that of one voxel, a cube
    for place_V in np.nonzero(inside):
        mean = np.bincount(parts_V, place_V, count + 1) / voxels
        spread += np.bincount(parts_V, (place_V - mean[parts_V]) ** 2, count + 1) / voxels
    if parts.ndim == 2:
        least = voxels / (2 * np.pi)
    else:
        least = 3 / 5 * (3 * voxels / (4 * np.pi)) ** (2 / 3)
    return np.asarray(np.minimum(least / spread, 1))
