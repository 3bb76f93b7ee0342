"""Fixed sine-cosine positions of the cells of a grid, for transformers.

Shapes: N cells of the grid, D features of a token.
"""

import torch
from torch import Tensor


def sincos(grid: tuple[int, ...], dim: int) -> Tensor:
    """Return the position of every cell of *grid* as a tensor of shape (N, dim), last axis fastest.

    Each axis gets an equal, even share of the features (half sines, half cosines, wavelengths
    from 2 pi to 20000 pi cells, as in https://arxiv.org/abs/1706.03762); what is left over is 0.
    """
    pairs = dim // (2 * len(grid))
    frequencies = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
    axes = [torch.arange(cells, dtype=torch.float64) for cells in grid]
    cells_NA = torch.cartesian_prod(*axes).reshape(-1, len(grid))
    angles = cells_NA[:, :, None] * frequencies
    waves_ND = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)
    rest = dim - waves_ND.shape[1]
    return torch.nn.functional.pad(waves_ND, (0, rest)).to(torch.float32)
