"""Cheap passes over volumes that were turned: views that run backwards through memory.

What is done in C order on such a view copies it whole first, or goes voxel by voxel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 16
"""From this step on, picking values one by one is faster than copying all of them in order."""


def every(values: NDArray[Any], step: int) -> NDArray[Any]:
    """Return each *step*-th value in C order."""
    picked = step >= FEW and not values.flags.c_contiguous
    return values.flat[::step] if picked else values.reshape(-1)[::step]


def extremes(values: NDArray[Any]) -> tuple[Any, Any]:
    """Return the least and the greatest value; NaN where one is NaN."""
    forwards = values[tuple(slice(None, None, -1 if step < 0 else 1) for step in values.strides)]
    lying = forwards.transpose(np.argsort(forwards.strides)[::-1])  # as memory has it
    return lying.min(), lying.max()
