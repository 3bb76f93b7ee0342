"""Thumbnails: the means of regions."""

import torch

from confrere_common.parts.thumbnail import small, thumbnails


def test_each_voxel_is_the_mean_of_its_region() -> None:
    images = torch.randn(2, 3, 16, 16)

    found = thumbnails(images, 4)

    expected = images.view(2, 3, 4, 4, 4, 4).mean((3, 5)).flatten(1)
    torch.testing.assert_close(found, expected)


def test_short_sides_are_kept_in_the_plane_and_in_space() -> None:
    assert small((4, 32, 16), 8) == (4, 8, 8)
    assert thumbnails(torch.randn(1, 1, 4, 32, 16, dtype=torch.float64), 8).shape == (1, 256)
