"""Blocks of patches: equally many, together, anywhere, in the plane and in space."""

import pytest
import torch

from confrere_common.parts.blocks import among, draw_blocks, patches_of, take


@pytest.mark.parametrize("grid", [(8, 8), (4, 8), (4, 4, 4)])
@pytest.mark.parametrize("patches", [1, 6, 16])
def test_every_block_has_as_many_patches_all_different(grid: tuple[int, ...], patches: int) -> None:
    blocks = draw_blocks(5, grid, patches, 3, torch.Generator().manual_seed(0))

    assert blocks.shape == (5, 3, patches)
    assert all(len(set(block.tolist())) == patches for block in blocks.flatten(0, 1))
    assert int(blocks.min()) >= 0
    assert int(blocks.max()) < torch.Size(grid).numel()


def test_patches_of_a_block_lie_together() -> None:
    blocks = draw_blocks(50, (12, 12), 16, 1, torch.Generator().manual_seed(0))[:, 0]

    rows, columns = blocks // 12, blocks % 12
    heights = rows.amax(1) - rows.amin(1) + 1
    widths = columns.amax(1) - columns.amin(1) + 1
    assert int((heights * widths).max()) <= 36
    assert float((heights * widths).float().mean()) < 24


def test_blocks_lie_everywhere_and_vary_in_shape() -> None:
    blocks = draw_blocks(400, (8, 8), 10, 1, torch.Generator().manual_seed(0))[:, 0]

    counts = torch.bincount(blocks.flatten(), minlength=64)
    wide = (blocks % 8).amax(1) - (blocks % 8).amin(1)
    assert int(counts.min()) > 10
    assert len(set(wide.tolist())) > 2


@pytest.mark.parametrize(("part", "patches"), [(0.175, 11), (0.001, 1), (1.0, 64)])
def test_a_part_of_the_grid_is_at_least_one_patch(part: float, patches: int) -> None:
    assert patches_of((8, 8), part) == patches


def test_a_mask_is_true_where_patches_were_chosen_and_they_can_be_taken() -> None:
    chosen = torch.tensor([[0, 2], [3, 1]])
    tokens = torch.arange(8.0).view(2, 4, 1)

    assert among(chosen, 4).tolist() == [[True, False, True, False], [False, True, False, True]]
    assert take(tokens, chosen)[..., 0].tolist() == [[0.0, 2.0], [7.0, 5.0]]
