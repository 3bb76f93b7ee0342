"""Blocks are a part of an image, and a map's cells lack what was hidden of them."""

import pytest
import torch

from confrere_common.errors import ConfigError
from confrere_common.parts.hiding import block_side, cells_of, hidden_share


@pytest.mark.parametrize(
    ("block", "size", "side"), [(None, (96, 96, 96), 16), (None, (64, 64), 8), (5, (32, 32), 5)]
)
def test_a_block_is_the_usual_one_unless_one_is_set(
    block: int | None, size: tuple[int, ...], side: int
) -> None:
    assert block_side(block, size, "smit") == side


def test_refuses_a_block_as_large_as_the_image_by_the_method_s_name() -> None:
    with pytest.raises(ConfigError, match="a block of 32 voxels covers images of 32 x 16 whole"):
        block_side(32, (32, 16), "smit")


@pytest.mark.parametrize("size", [(16, 24), (8, 8, 16)], ids=["2-D", "3-D"])
def test_a_cell_lacks_as_much_as_is_hidden_of_it(size: tuple[int, ...]) -> None:
    hidden = torch.rand(2, 1, *size) < 0.5
    grid = tuple(side // 4 for side in size)
    seen = torch.randn(2, 7, *grid)

    lacking = hidden_share(hidden, seen)

    assert lacking.shape == cells_of(seen).shape[:2]
    torch.testing.assert_close(lacking.mean(1), hidden.flatten(1).float().mean(1))
    first = hidden[(0, 0, *(slice(4) for _ in size))]
    torch.testing.assert_close(lacking[0, 0], first.float().mean())
