"""Maps move exactly as the view's image does, whatever becomes of its brightness."""

from typing import Any

import pytest
import torch
from torch import Tensor

from confrere_common.augment import intensity
from confrere_common.augment.alike import moved_alike
from confrere_common.augment.pipeline import augmentation, normalise
from confrere_common.augment.presets import PRESETS, Augmentation

STILL = {
    "brightness": 0, "contrast": [1, 1], "gamma_probability": 0, "channel_gain": [1, 1],
    "bias_field": 0, "inversion_probability": 0, "saturation": [1, 1], "hue_turns": 0,
    "stain_scale": 0, "stain_shift": 0, "blur_probability": 0, "noise_probability": 0,
}  # fmt: skip
"""No change of brightness is left."""

SIZES = [(24, 32), (32, 32), (12, 16, 16)]


def images_of(size: tuple[int, ...], channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (5, channels, *size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def moved(images: Tensor, maps: Tensor, modality: str, **changes: Any) -> tuple[Tensor, ...]:
    section = Augmentation(modality=modality, changes=changes)
    size = tuple(images.shape[2:])
    augment = augmentation(section, channels=images.shape[1], size=size)
    return moved_alike(images, maps, augment, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("modality", PRESETS)
def test_an_image_as_its_own_map_becomes_its_own_view(size: tuple[int, ...], modality: str) -> None:
    images = images_of(size)

    views, maps, _ = moved(images, images, modality, **STILL)

    expected = (maps / 255 - intensity.MEAN) / intensity.STD
    torch.testing.assert_close(views, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_of_brightness_leave_maps_alone(channels: int) -> None:
    images = images_of((32, 32), channels)
    maps = torch.rand(5, 4, 32, 32)

    _, still, _ = moved(images, maps, "dermatology", **STILL)
    views, same, _ = moved(images, maps, "dermatology")

    assert torch.equal(still, same)
    assert not torch.allclose(views.mean(1), same.mean(1))


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)], ids=str)
def test_what_is_cut_away_is_no_structure_any_more(size: tuple[int, ...]) -> None:
    images, maps = images_of(size) // 2 + 100, torch.ones(5, 2, *size)
    plain, _, there = moved(images, maps, "mri", **STILL)

    views, left, inside = moved(images, maps, "mri", **STILL, cavity_probability=1)

    gone = (inside == 0) & (there > 0)
    assert not left[gone.expand_as(left)].any()
    assert gone.flatten(1).any(1).all()
    change = (views - plain).abs().mean(1, keepdim=True)
    assert change[gone].mean() > 20 * change[~gone].mean()  # its edge is soft


def test_cavities_are_cut_into_as_many_views_as_asked() -> None:
    images = images_of((32, 32)).repeat(40, 1, 1, 1) // 2 + 100
    plain, _, _ = moved(images, images, "mri", **STILL)

    some, _, _ = moved(images, images, "mri", **STILL, cavity_probability=0.3)

    assert 0.2 < (some != plain).flatten(1).any(1).float().mean() < 0.4


def test_the_views_are_those_that_are_made_without_maps() -> None:
    images = images_of((32, 32), 3)
    augment = augmentation(Augmentation(), channels=3, size=(32, 32))

    views, _, _ = moved(images, images[:, :1], "dermatology")

    assert torch.equal(views, augment(images, torch.Generator().manual_seed(3)))


def test_mirrors_alone_are_exact() -> None:
    images = images_of((24, 32))
    only = {
        **STILL,
        "area": [1, 1],
        "aspect": [1, 1],
        "rotation_degrees": 0,
        "flips": [0, 0.5, 0.5],
    }

    views, maps, inside = moved(images, images, "dermatology", **only)

    assert torch.equal(views, normalise(maps.to(torch.uint8)))
    assert not torch.equal(maps, images.float())
    assert inside.eq(1).all()


def test_what_lies_beyond_the_edge_is_told_where_it_is_black() -> None:
    images = torch.full((5, 1, 32, 32), 255, dtype=torch.uint8)

    beyond, _, inside = moved(images, images, "ct", **STILL, translation=0.3)
    _, _, all_inside = moved(images, images, "histology", translation=0.3)

    assert (inside < 0.5).any()
    assert ((beyond > 0) == (inside > 0.5)).all()
    torch.testing.assert_close(all_inside, torch.ones_like(all_inside))


def test_any_other_function_is_taken_to_leave_voxels_in_their_place() -> None:
    images, maps = images_of((16, 16)), torch.rand(5, 2, 16, 16)

    views, same, inside = moved_alike(images, maps, lambda one, _: one / 2, torch.Generator())

    assert torch.equal(views, images / 2)
    assert torch.equal(same, maps)
    assert inside.eq(1).all()
