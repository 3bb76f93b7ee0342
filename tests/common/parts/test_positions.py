"""Positions tell cells apart and know distances."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.parts.positions import sincos

GRIDS = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@given(grid=GRIDS, dim=st.integers(6, 40))
@settings(deadline=None, max_examples=30)
def test_every_cell_has_its_own_bounded_position(grid: tuple[int, ...], dim: int) -> None:
    positions_ND = sincos(grid, dim)

    count = int(torch.tensor(grid).prod())
    assert positions_ND.shape == (count, dim)
    assert positions_ND.abs().max() <= 1
    assert len(positions_ND.unique(dim=0)) == count


@given(grid=GRIDS, dim=st.integers(6, 40))
@settings(deadline=None, max_examples=30)
def test_likeness_depends_on_how_far_apart_cells_lie(grid: tuple[int, ...], dim: int) -> None:
    positions_ND = sincos(grid, dim)
    cells_NA = torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid))
    apart_NNA = cells_NA[:, None] - cells_NA

    likeness_NN = positions_ND @ positions_ND.T

    again_NN = likeness_NN.flatten()[_first_with_the_same(apart_NNA.flatten(0, 1))]
    torch.testing.assert_close(likeness_NN.flatten(), again_NN, rtol=1e-4, atol=1e-4)


def test_the_last_axis_runs_fastest() -> None:
    rows_YXD = sincos((2, 3), 8).reshape(2, 3, 8)

    assert torch.equal(rows_YXD[0, :, :4], rows_YXD[0, :1, :4].expand(3, 4))
    assert torch.equal(rows_YXD[:, 0, 4:], rows_YXD[:1, 0, 4:].expand(2, 4))


def test_features_that_axes_cannot_share_are_zero() -> None:
    positions_ND = sincos((2, 2, 2), 16)

    assert (positions_ND[:, 12:] == 0).all()
    assert (positions_ND[:, :12] != 0).any(0).sum() >= 11


def _first_with_the_same(rows: torch.Tensor) -> torch.Tensor:
    _, group = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(rows))
    return first.scatter_reduce(0, group, torch.arange(len(rows)), "amin")[group]
