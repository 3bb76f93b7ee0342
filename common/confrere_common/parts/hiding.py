"""Hiding blocks of voxels from any encoder: how large they are, and how much a map lacks of them.

Shapes: B images, [Z] Y X voxels (Z only in 3-D), N cells of a map, M channels of it.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from confrere_common.errors import ConfigError
from confrere_common.parts.masking import usual_block


def block_side(block: int | None, size: tuple[int, ...], method: str) -> int:
    """Return the side of a block, the usual one where none is set.

    ConfigError if one block covers the whole image.
    """
    block = block or usual_block(size)
    if block >= max(size):
        sides = " x ".join(map(str, size))
        fault = (
            f"a block of {block} voxels covers images of {sides} whole, so nothing would be left "
            f"to see. Set method.block below {max(size)}."
        )
        raise ConfigError([fault], f"method '{method}'")
    return block


def cells_of(map_BMZYX: Tensor) -> Tensor:
    """Return the features of each place of a map, (B, N, M)."""
    return map_BMZYX.flatten(2).transpose(1, 2)


def hidden_share(hidden_B1ZYX: Tensor, map_BMZYX: Tensor) -> Tensor:
    """Return how much of each place of a map is hidden, (B, N)."""
    size = tuple(map_BMZYX.shape[2:])
    kind = torch.promote_types(map_BMZYX.dtype, torch.float32)
    return interpolate(hidden_B1ZYX.to(kind), size, mode="area").flatten(1)
