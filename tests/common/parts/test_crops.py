"""Local crops: parts of the image, enlarged, each image for itself."""

import pytest
import torch

from confrere_common.parts.crops import local_crop


def test_a_crop_of_the_whole_is_the_image() -> None:
    images = torch.randn(2, 1, 8, 12)

    crop = local_crop(images, (1.0, 1.0), torch.Generator().manual_seed(0))

    torch.testing.assert_close(crop, images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)])
@pytest.mark.parametrize("part", [0.1, 0.4])
def test_a_crop_shows_the_asked_part_of_area_or_volume(size: tuple[int, ...], part: float) -> None:
    ramp = torch.linspace(0, 1, 16).expand(50, 1, *size)

    crop = local_crop(ramp, (part, part), torch.Generator().manual_seed(0))

    middle = crop[..., 12] - crop[..., 3]  # away from the border, which is repeated
    expected = part ** (1 / len(size)) * 9 / 15
    inside = (crop.amin(tuple(range(1, crop.ndim))) > 0) & (
        crop.amax(tuple(range(1, crop.ndim))) < 1
    )
    assert inside.any()
    torch.testing.assert_close(
        middle[inside], torch.full_like(middle[inside], expected), atol=1e-4, rtol=1e-4
    )


def test_crops_lie_anywhere_and_are_drawn_from_the_generator() -> None:
    ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16)

    one, again, other = (
        local_crop(ramp, (0.2, 0.2), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )

    middles = one.mean((1, 2, 3))
    assert float(middles.min()) < 0.35
    assert float(middles.max()) > 0.65
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
