"""Crops are taken of images as they lie: their bytes alone, anywhere inside, black beyond."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shelf import Array, Mapped, Shelf, noise, only_home

from confrere_client.data.images import Images, images_of
from confrere_client.data.volumes import Volumes, anywhere, around, middle
from confrere_common.errors import ConfigError, DataError

SHAPES = [(12, 14, 10), (9, 8, 20), (5, 16, 7)]
"""Volumes of unequal size; the last is too small for a crop of 8 along two axes."""


class Unread(Mapped):
    """Images that are too large to be read for a fingerprint."""

    def fingerprint(self) -> Iterator[bytes]:
        yield b"huge"


def uneven() -> list[Array | str]:
    return [noise(1, *shape, seed=seed) for seed, shape in enumerate(SHAPES)]


def cropped(source: Shelf, folder: Path, *sides: int, **knobs: Any) -> Images:
    return images_of(source, image_px=64, crop_px=sides or (8,), cache_dir=folder, **knobs)


def framed(volume: Array, corner: tuple[int, ...], side: int = 8) -> Array:
    """Return what a crop must be, from a copy of the volume on a wide black canvas."""
    wide = np.pad(volume, ((0, 0), *[(side, side)] * (volume.ndim - 1)))
    box = tuple(slice(side + start, 2 * side + start) for start in corner)
    return wide[(slice(None), *box)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SOURCES = pytest.mark.parametrize("kind", [Shelf, Mapped], ids=["cached", "mapped"])


@SOURCES
def test_a_batch_is_the_middle_of_each_image(kind: type[Shelf], tmp_path: Path) -> None:
    source = kind(uneven())

    images = cropped(source, tmp_path)

    assert (images.sides, images.size, images.dims, len(images)) == ((8, 8, 8), 8, 3, 3)
    due = [framed(source.images[2], (-1, 4, 0)), framed(source.images[0], (2, 3, 1))]
    assert np.array_equal(images.batch(np.array([2, 0])).numpy(), np.stack(due))
    assert images.batch(np.empty(0, np.int64)).shape == (0, 1, 8, 8, 8)


@SOURCES
def test_a_step_sees_places_that_its_generator_draws(kind: type[Shelf], tmp_path: Path) -> None:
    source = kind(uneven())
    images, rows = cropped(source, tmp_path), np.array([0, 1, 1, 2])

    one, same, other = (images.cut(rows, generator(seed)) for seed in (1, 1, 2))

    assert one.corners == same.corners != other.corners
    assert one.corners is not None
    due = [framed(source.images[row], at) for row, at in zip(rows, one.corners, strict=True)]
    assert np.array_equal(one.batch(rows).numpy(), np.stack(due))
    assert torch.equal(one.batch(rows), same.batch(rows))


@given(
    sides=st.tuples(*[st.integers(1, 40)] * 3),
    crop=st.tuples(*[st.integers(1, 40)] * 3),
    draws=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    voxel=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
)
def test_a_crop_lies_inside_or_around_what_is_too_small(
    sides: tuple[int, ...],
    crop: tuple[int, ...],
    draws: tuple[float, ...],
    voxel: tuple[float, ...],
) -> None:
    place = [int(share * side) for share, side in zip(voxel, sides, strict=True)]
    found = [
        middle(sides, crop),
        anywhere(sides, crop, np.array(draws)),
        around(place, sides, crop),
    ]

    for corner in found:
        for start, side, due in zip(corner, sides, crop, strict=True):
            assert 0 <= start <= side - due if side >= due else start == -((due - side) // 2)
    for start, at, due in zip(found[2], place, crop, strict=True):
        assert start <= at < start + due


def test_every_place_can_be_drawn() -> None:
    shares = np.linspace(0, 1, 100, endpoint=False)[:, None].repeat(3, 1)

    assert {anywhere((12, 9, 5), (8, 8, 8), draws)[0] for draws in shares} == set(range(5))
    assert {anywhere((12, 9, 5), (8, 8, 8), draws)[1:] for draws in shares} == {(0, -1), (1, -1)}


def resident_kib(path: Path) -> int:
    """Return how much of a mapped file is in this process's memory (Linux)."""
    text = Path("/proc/self/smaps").read_text()
    parts = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", text)
    return sum(map(int, parts))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")
def test_of_a_mapped_volume_only_the_crop_is_read(tmp_path: Path) -> None:
    """The volume has 256 GiB: read whole, even once, it would end this process."""
    path, shape = tmp_path / "huge.bin", (1, 4096, 4096, 8192)
    with path.open("wb") as file:
        file.truncate(int(np.prod(shape)) * 2)
    huge = np.memmap(path, np.uint16, "r+", shape=shape)
    huge[0, 2048, 2048, 4096] = 7

    read_only = np.asarray(np.memmap(path, np.uint16, "r", shape=shape))
    images = cropped(Unread([read_only]), tmp_path)
    crop_CZYX = images.batch(np.array([0]))[0]
    drawn = images.cut(np.array([0]), generator()).batch(np.array([0]))

    assert crop_CZYX[0, 4, 4, 4] == 7
    assert drawn.shape == (1, 1, 8, 8, 8)
    # The kernel brings some pages around each that is touched; the crops have 128 rows of voxels.
    assert 0 < resident_kib(path) < 128 * 256


def test_mapped_images_are_copied_nowhere(tmp_path: Path) -> None:
    cropped(Mapped(uneven()), tmp_path).batch(np.arange(3))

    assert not list(tmp_path.iterdir())


def test_one_cache_serves_crops_of_every_size(tmp_path: Path) -> None:
    shelf = Shelf(uneven())

    eight, twelve = cropped(shelf, tmp_path), cropped(shelf, tmp_path, 8, 8, 12)

    assert only_home(tmp_path)
    assert (shelf.decoded, twelve.sides) == (3, (8, 8, 12))
    assert eight.digest != twelve.digest
    assert (twelve.size, twelve.pixels.shape) == (12, (3, 1, 8, 8, 12))


def test_a_damaged_cache_is_built_anew(tmp_path: Path) -> None:
    shelf = Shelf(uneven())
    before = cropped(shelf, tmp_path).batch(np.arange(3))
    pixels = only_home(tmp_path) / "pixels.npy"
    pixels.write_bytes(pixels.read_bytes()[:-1])

    again = cropped(shelf, tmp_path)

    assert torch.equal(again.batch(np.arange(3)), before)
    assert shelf.decoded == 6


@SOURCES
@pytest.mark.parametrize(
    ("volumes", "channels", "due", "dtype"),
    [
        ([noise(1, 9, 8, 8), noise(3, 8, 8, 8)], None, 3, torch.uint8),
        ([noise(3, 9, 8, 8), noise(1, 8, 8, 8, dtype=np.uint16)], 1, 1, torch.uint16),
    ],
)
def test_crops_are_made_alike_in_channels_and_depth(
    kind: type[Shelf], volumes: list[Array], channels: int | None, due: int, dtype: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    whole = images_of(kind(volumes), image_px=8, channels=channels, cache_dir=tmp_path / "whole")

    images = cropped(kind(volumes), tmp_path, channels=channels)

    found = images.batch(np.arange(2))
    assert (found.shape, found.dtype) == ((2, due, 8, 8, 8), dtype)
    assert torch.equal(found[1], whole.batch(np.array([1]))[0])  # it is of the size already


@SOURCES
def test_what_cannot_be_read_or_made_alike_is_left_out(kind: type[Shelf], tmp_path: Path) -> None:
    odd = [noise(1, 8, 8), noise(4, 8, 8, 8), noise(3, 8, 8, 8)]

    images = cropped(kind(["torn", noise(1, 9, 9, 9), *odd]), tmp_path)

    assert images.catalog.names.tolist() == ["n1", "n3"]
    assert [name for name, _ in images.skipped] == ["n0", "n2", "n4"]
    with pytest.raises(DataError, match="none of the 1 images can be read: 1 x torn"):
        cropped(kind(["torn"]), tmp_path)


def test_the_sides_of_a_crop_must_fit_the_axes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop_px has 2 sides, and the images have 3 axes"):
        cropped(Shelf(uneven()), tmp_path, 8, 8)


@SOURCES
def test_pictures_are_cut_as_volumes_are(kind: type[Shelf], tmp_path: Path) -> None:
    picture = noise(3, 20, 11)

    images = cropped(kind([picture]), tmp_path)

    assert np.array_equal(images.batch(np.array([0]))[0].numpy(), picture[:, 6:14, 1:9])


def marked(shape: tuple[int, ...], voxel: tuple[int, ...]) -> Array:
    mask = np.zeros(shape, np.uint8)
    mask[voxel] = 2
    return mask


def test_a_mask_is_cut_where_its_image_is(tmp_path: Path) -> None:
    volumes = uneven()
    masks: list[Array | None] = [(volume[0] > 99).astype(np.uint8) for volume in volumes]
    images, rows = cropped(Mapped(volumes, masks), tmp_path), np.array([2, 0, 1])

    for seen in (
        images,
        images.cut(rows, generator(3)),
        images.cut(rows, generator(4), marked=True),
    ):
        pixels = seen.batch(rows)[:, 0]
        assert torch.equal(seen.known("mask", rows), (pixels > 99).long())
    assert np.array_equal(images.whole_mask(1), masks[1])
    assert np.array_equal(images.whole(1)[0].numpy(), volumes[1])


def test_half_of_the_crops_have_a_marked_voxel_in_their_middle(tmp_path: Path) -> None:
    volume, rows = noise(1, 40, 40, 40), np.zeros(200, np.int64)
    source = Mapped([volume, volume], [marked((40, 40, 40), (30, 9, 20)), None])
    images = cropped(source, tmp_path)

    found = images.cut(rows, generator(), marked=True)
    unmarked = images.cut(rows + 1, generator(), marked=True)

    assert found.corners is not None
    assert unmarked.corners is not None
    assert 70 < [*map(tuple, found.corners)].count((26, 5, 16)) < 130
    assert len(set(map(tuple, unmarked.corners))) > 150


def test_a_volume_is_no_array_that_is_read_by_mistake(tmp_path: Path) -> None:
    images = cropped(Mapped(uneven()), tmp_path)

    assert isinstance(images.pixels, Volumes)
    assert images.cropped
    assert not hasattr(images.pixels, "__array__")
    assert images.spacings_mm == [(2.0, 1.0, 1.0)] * 3
