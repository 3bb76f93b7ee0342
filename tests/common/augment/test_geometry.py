from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from confrere_common.augment import geometry
from confrere_common.augment.draw import Draws, draw
from confrere_common.augment.presets import PRESETS, Ranges

SIZES = pytest.mark.parametrize("size", [(8, 8), (6, 10), (4, 6, 8)], ids=str)


def drawn(ranges: Ranges, batch: int, seed: int = 0) -> Draws:
    return draw(ranges, batch, 1, torch.Generator().manual_seed(seed))


def images(batch: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 2, *size, generator=generator)


def seen(images_BCZYX: Tensor, draws: Draws, outside: str = "zeros") -> Tensor:
    size = tuple(images_BCZYX.shape[2:])
    lines = geometry.lines(size, images_BCZYX.device)
    return geometry.resample(images_BCZYX, geometry.affine(draws, size), lines, outside)


@SIZES
def test_draws_that_move_nothing_show_the_image_itself(size: tuple[int, ...]) -> None:
    before = images(3, size)

    after = seen(before, drawn(Ranges(), 3))

    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "axis"),
    [((6, 10), -1), ((6, 10), -2), ((4, 6, 8), -1), ((4, 6, 8), -2), ((4, 6, 8), -3)],
)
def test_a_mirror_is_exact_alone_and_within_the_resampling(
    size: tuple[int, ...], axis: int
) -> None:
    flips = tuple(float(one == axis) for one in (-3, -2, -1))
    before, draws = images(3, size), drawn(Ranges(flips=flips), 3)

    alone, within = geometry.mirror(before.clone(), draws.flips_B3), seen(before, draws)

    assert torch.equal(alone, before.flip(axis))
    assert torch.allclose(within, before.flip(axis), atol=1e-5)


def test_only_the_images_that_were_drawn_are_mirrored() -> None:
    before, draws = images(40, (4, 4)), drawn(Ranges(flips=(0, 0, 0.5)), 40)

    after = geometry.mirror(before.clone(), draws.flips_B3)

    for image, flipped in enumerate(draws.flips_B3[:, 2]):
        assert torch.equal(after[image], before[image].flip(-1) if flipped else before[image])


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_quarter_turn_moves_voxels_and_invents_none(quarters: int) -> None:
    before = images(1, (8, 8))
    draws = replace(drawn(Ranges(), 1), quarters_B=torch.tensor([float(quarters)]))

    after = seen(before, draws)

    turned = [torch.rot90(before, sign * quarters, (-2, -1)) for sign in (1, -1)]
    assert any(torch.allclose(after, one, atol=1e-5) for one in turned)


def test_an_image_that_is_not_square_is_turned_by_half_turns_only() -> None:
    before = images(8, (4, 6))
    draws = replace(drawn(Ranges(), 8), quarters_B=torch.arange(8.0) % 4)

    after = seen(before, draws)

    for image in range(8):
        due = before[image].flip(-1, -2) if image % 2 else before[image]
        assert torch.allclose(after[image], due, atol=1e-5)


def test_turning_an_image_that_is_not_square_does_not_shear_it() -> None:
    upright = torch.zeros(1, 1, 21, 41)
    upright[:, :, 5:16, 20] = 1
    draws = replace(drawn(Ranges(), 1), angle_B=torch.tensor([torch.pi / 2]))

    lying = seen(upright, draws)

    assert torch.allclose(lying.sum(), upright.sum(), atol=1e-3)
    assert torch.allclose(lying[0, 0, 10, 15:26], torch.ones(11), atol=1e-4)


@given(seed=st.integers(0, 2**32), dims=st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=25)
def test_a_crop_lies_inside_the_image_and_has_the_drawn_volume(seed: int, dims: int) -> None:
    draws = drawn(Ranges(area=(0.2, 0.5), aspect=(0.8, 1.25)), 8, seed)

    affine_BDE = geometry.affine(draws, (16,) * dims)

    scale_BD = affine_BDE[:, :, :-1].diagonal(dim1=1, dim2=2)
    shift_BD = affine_BDE[:, :, -1]
    assert (scale_BD + shift_BD.abs() <= 1 + 1e-5).all()
    free = (scale_BD < 1).all(dim=1)
    assert torch.allclose(scale_BD.prod(1)[free], draws.area_B[free], atol=1e-5)


@given(seed=st.integers(0, 2**32), modality=st.sampled_from(sorted(PRESETS)))
@settings(deadline=None, max_examples=25)
def test_the_fast_grid_is_that_of_torch(seed: int, modality: str) -> None:
    before = images(3, (5, 6, 7), seed)
    affine_BDE = geometry.affine(drawn(PRESETS[modality], 3, seed), (5, 6, 7))

    fast = geometry.resample(before, affine_BDE, geometry.lines((5, 6, 7), before.device), "border")

    grid = functional.affine_grid(affine_BDE, list(before.shape), align_corners=False)
    slow = functional.grid_sample(before, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(fast, slow, atol=1e-4)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_a_radiograph_is_never_seen_in_a_mirror(seed: int) -> None:
    affine_BDE = geometry.affine(drawn(PRESETS["cxr"], 64, seed), (16, 16))

    assert (torch.linalg.det(affine_BDE[:, :, :2]) > 0).all()
    assert (affine_BDE[:, 0, 0] > 0).all()


def test_a_view_is_resampled_only_where_voxels_move_between_places() -> None:
    assert not geometry.resamples(Ranges(flips=(1, 1, 1), contrast=(0.5, 2), noise_std=(0, 1)))
    assert geometry.resamples(Ranges(quarter_turns=True))
    assert geometry.resamples(Ranges(tilt_degrees=1))
