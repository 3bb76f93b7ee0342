"""Thumbnails: what a method asks its features to tell of an image, so that they tell something.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), P voxels and channels of a thumbnail.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def small(size: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Return the size of a thumbnail of at most *side* voxels along each side."""
    return tuple(min(one, side) for one in size)


def thumbnails(images_BCZYX: Tensor, side: int) -> Tensor:
    """Return small copies of the images, each voxel the mean of a region, (B, P)."""
    wide = torch.promote_types(images_BCZYX.dtype, torch.float32)
    size = small(tuple(images_BCZYX.shape[2:]), side)
    return interpolate(images_BCZYX.to(wide), size, mode="area").flatten(1)
