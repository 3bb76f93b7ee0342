"""Maps of an image that ``decode.fit`` made fit a network, brought back to the image's own size.

Shapes: K classes, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.data.decode import fitted_sides
from confrere_common.parts.decoder import enlarged


def unfitted(map_ZYX: Tensor, sides: Sequence[int]) -> Tensor:
    """Return a map of a fitted image at the *sides* ([Z] Y X) of the image itself, interpolated.

    What the network saw beside the image, black, is cut away.
    """
    shape = fitted_sides(sides, max(map_ZYX.shape))
    starts = [(due - side) // 2 for due, side in zip(map_ZYX.shape, shape, strict=True)]
    inside = tuple(slice(at, at + side) for at, side in zip(starts, shape, strict=True))
    return enlarged(map_ZYX[inside][None, None], tuple(sides))[0, 0]


def likeliest(found_KZYX: Tensor, sides: Sequence[int]) -> NDArray[np.uint8]:
    """Return the likeliest class of each voxel of the image itself, ([Z] Y X).

    Probabilities are interpolated, not classes, so that edges stay smooth; class after class, so
    that memory does not grow with their number.
    """
    best = unfitted(found_KZYX[0], sides)
    classes = torch.zeros(tuple(sides), dtype=torch.uint8, device=best.device)
    for number, each in enumerate(found_KZYX[1:], start=1):
        own = unfitted(each, sides)
        classes[own > best] = number
        best = torch.maximum(best, own)
    return np.asarray(classes.cpu().numpy(), np.uint8)
