"""Blocks of patches at random places: equally many patches in every block, so images batch.

Shapes: B images, N patches of the grid (X fastest), K blocks, T patches of a block, A axes.
"""

import torch
from torch import Tensor


def draw_blocks(
    images: int, grid: tuple[int, ...], patches: int, count: int, generator: torch.Generator
) -> Tensor:
    """Draw *count* blocks of *patches* patches for each image: indices (B, K, T), sorted.

    A block is the patches nearest to a random place in the maximum norm, after a stretch in the
    plane that makes it from 3 : 4 to 3 : 2. Papers draw rectangles of random size, which differ in
    number between images; those of this shape differ by a ragged edge only.
    """
    axes = len(grid)
    chance_BKA = torch.rand(images, count, axes + 1, generator=generator, device=generator.device)
    lines = [torch.arange(cells, device=generator.device) for cells in grid]
    cells_NA = torch.cartesian_prod(*lines).reshape(-1, axes) + 0.5
    place_BKA = chance_BKA[..., :axes] * cells_NA.new_tensor(grid)
    aspect_BK = 0.75 * 2 ** chance_BKA[..., axes]
    apart_BKNA = (cells_NA - place_BKA[:, :, None]).abs()
    apart_BKNA[..., -1] /= aspect_BK[..., None].sqrt()
    if axes > 1:
        apart_BKNA[..., -2] *= aspect_BK[..., None].sqrt()
    nearest_BKT = apart_BKNA.amax(3).argsort(2)[..., :patches]
    return nearest_BKT.sort(2).values


def patches_of(grid: tuple[int, ...], part: float) -> int:
    """Return how many patches of the grid are nearest to that *part* of it, at least one."""
    return max(1, round(part * torch.Size(grid).numel()))


def among(chosen_Bn: Tensor, cells: int) -> Tensor:
    """Return a mask (B, N = cells), True at the chosen indices."""
    every_N = torch.arange(cells, device=chosen_Bn.device)
    return (chosen_Bn[..., None] == every_N).any(-2)


def take(tokens_BND: Tensor, chosen_Bn: Tensor) -> Tensor:
    """Return the chosen tokens of each image, of shape (B, n, D)."""
    return tokens_BND.gather(1, chosen_Bn[..., None].expand(-1, -1, tokens_BND.shape[2]))
