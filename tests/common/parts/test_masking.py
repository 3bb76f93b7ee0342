"""Masks and patches, against counts and against slices made by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.parts.masking import (
    block_grid,
    draw_hidden,
    hidden_of,
    normalised,
    over_hidden,
    paint_blocks,
    patchify,
    unpatchify,
    usual_block,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_patch_holds_the_voxels_of_its_place_channel_fastest() -> None:
    images = torch.randn(2, 3, 8, 12)

    patches_BNP = patchify(images, (4, 4))

    assert patches_BNP.shape == (2, 6, 48)
    by_hand = images[1, :, 4:8, 8:12].permute(1, 2, 0).flatten()
    assert torch.equal(patches_BNP[1, 5], by_hand)


def test_patches_of_a_volume_run_along_x_first() -> None:
    volume = torch.randn(1, 1, 4, 6, 4)

    patches_BNP = patchify(volume, (2, 2, 2))

    assert torch.equal(patches_BNP[0, 1], volume[0, 0, :2, :2, 2:].flatten())
    assert torch.equal(patches_BNP[0, 2], volume[0, 0, :2, 2:4, :2].flatten())


@settings(deadline=None, max_examples=20)
@given(
    grid=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    side=st.integers(1, 3),
    channels=st.integers(1, 3),
)
def test_putting_patches_together_undoes_the_cut(grid: list[int], side: int, channels: int) -> None:
    patch = (side,) * len(grid)
    images = torch.randn(2, channels, *(cells * side for cells in grid))

    assert torch.equal(unpatchify(patchify(images, patch), tuple(grid), patch), images)


@settings(deadline=None, max_examples=30)
@given(cells=st.integers(2, 50), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_hides_equally_many_in_every_image(cells: int, ratio: float, seed: int) -> None:
    hidden_BN = draw_hidden(torch.zeros(4, 1), cells, ratio, seeded(seed))

    counts = hidden_BN.sum(1)

    assert (counts == hidden_of(cells, ratio)).all()
    assert 0 < int(counts[0]) < cells
    assert abs(int(counts[0]) - ratio * cells) <= 1


def test_every_place_is_hidden_as_often_as_any_other() -> None:
    hidden_BN = draw_hidden(torch.zeros(4000, 1), 10, 0.6, seeded())

    torch.testing.assert_close(hidden_BN.float().mean(0), torch.full((10,), 0.6), atol=0.04, rtol=0)


@pytest.mark.parametrize(("side", "block"), [(224, 32), (96, 16), (64, 8), (28, 4), (4, 1)])
def test_the_usual_block_is_about_a_seventh_of_the_side(side: int, block: int) -> None:
    assert usual_block((side, side)) == block


@pytest.mark.parametrize("size", [(8, 12), (7, 10), (4, 6, 8), (3, 5, 9)])
def test_a_painted_block_covers_its_place_and_nothing_else(size: tuple[int, ...]) -> None:
    cells = torch.Size(block_grid(size, 4)).numel()
    last_BN = torch.arange(cells)[None] == cells - 1

    mask = paint_blocks(last_BN, size, 4)

    corner = tuple(slice((side - 1) // 4 * 4, side) for side in size)
    expected = torch.zeros(1, 1, *size, dtype=torch.bool)
    expected[(0, 0, *corner)] = True
    assert torch.equal(mask, expected)


def test_averages_over_what_is_hidden_only() -> None:
    errors = torch.tensor([[[1.0, 3.0], [100.0, 100.0]], [[100.0, 100.0], [5.0, 7.0]]])
    hidden = torch.tensor([[[True], [False]], [[False], [True]]])

    assert over_hidden(errors, hidden).tolist() == [2.0, 6.0]


def test_a_normalised_patch_forgets_brightness_and_contrast() -> None:
    patches = torch.randn(2, 3, 16)

    torch.testing.assert_close(normalised(patches * 7 + 3), normalised(patches), atol=1e-4, rtol=0)
