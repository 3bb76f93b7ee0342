"""Masks: cut images into patches, draw which are hidden, put them together again.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N patches or blocks (X fastest), P
voxels and channels of a patch.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def patchify(images_BCZYX: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Return patches of shape (B, N, P), the channel fastest; *patch* must divide the images."""
    axes = len(patch)
    sizes = zip(images_BCZYX.shape[2:], patch, strict=True)
    pairs = [part for size, side in sizes for part in (size // side, side)]
    cut = images_BCZYX.reshape(*images_BCZYX.shape[:2], *pairs)
    cells, voxels = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return cut.permute(0, *cells, *voxels, 1).flatten(1 + axes).flatten(1, axes)


def unpatchify(patches_BNP: Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Return the images of which *patches_BNP* are the patches: the inverse of ``patchify``."""
    axes = len(grid)
    cut = patches_BNP.reshape(len(patches_BNP), *grid, *patch, -1)
    pairs = [place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)]
    images_BCZYX = cut.permute(0, 1 + 2 * axes, *pairs)
    sizes = [cells * side for cells, side in zip(grid, patch, strict=True)]
    return images_BCZYX.reshape(*images_BCZYX.shape[:2], *sizes)


def hidden_of(cells: int, ratio: float) -> int:
    """Return how many of *cells* to hide: nearest to *ratio*, but at least one and not all."""
    return min(max(round(ratio * cells), 1), cells - 1)


def draw_hidden(
    images_BCZYX: Tensor, cells: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Draw a mask of shape (B, N = cells), True where hidden: equally many in every image."""
    noise_BN = torch.rand(len(images_BCZYX), cells, generator=generator, device=generator.device)
    ranks_BN = noise_BN.argsort(1).argsort(1)
    return (ranks_BN < hidden_of(cells, ratio)).to(images_BCZYX.device)


def hidden_blocks(
    images_BCZYX: Tensor, block: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Draw which blocks of each image are hidden, (B, 1, [Z] Y X), True where hidden."""
    size = tuple(images_BCZYX.shape[2:])
    cells = torch.Size(block_grid(size, block)).numel()
    return paint_blocks(draw_hidden(images_BCZYX, cells, ratio, generator), size, block)


def usual_block(size: tuple[int, ...]) -> int:
    """Return the power of two nearest to a seventh of the longest side: 32 of 224, 8 of 64."""
    return 1 << max(0, round(math.log2(max(size) / 7)))


def block_grid(size: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return blocks along each side; the last one is cut where *block* does not divide the side."""
    return tuple(-(-side // block) for side in size)


def paint_blocks(hidden_BN: Tensor, size: tuple[int, ...], block: int) -> Tensor:
    """Return the mask of blocks as a mask of voxels, of shape (B, 1, *size)."""
    mask_B1ZYX = hidden_BN.reshape(len(hidden_BN), 1, *block_grid(size, block))
    for axis, side in enumerate(size, start=2):
        mask_B1ZYX = mask_B1ZYX.repeat_interleave(block, axis).narrow(axis, 0, side)
    return mask_B1ZYX


def over_hidden(errors: Tensor, hidden: Tensor) -> Tensor:
    """Return for each image the mean of its *errors* where *hidden*, which broadcasts to them."""
    weights = hidden.to(errors.dtype).expand_as(errors)
    return (errors * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)


def normalised(patches_BNP: Tensor) -> Tensor:
    """Return every patch with mean 0 and variance 1: contrast counts then, brightness not."""
    return layer_norm(patches_BNP, patches_BNP.shape[-1:], eps=1e-6)
