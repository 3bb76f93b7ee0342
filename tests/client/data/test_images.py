"""Images are decoded, made alike, and handed out in batches and crops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shelf import Array, Shelf, noise, opened

from confrere_common.errors import DataError


def test_keeps_pixels_in_order(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8, seed=seed) for seed in range(40)])

    images = opened(shelf, tmp_path)

    assert np.array_equal(images.pixels, np.stack(shelf.images))
    assert isinstance(images.pixels, np.memmap)
    assert (len(images), images.channels, images.size, images.dims) == (40, 1, 8, 2)


@pytest.mark.parametrize(
    ("images", "channels", "shape", "dtype"),
    [
        ([noise(1, 8, 8), noise(3, 8, 8)], None, (2, 3, 8, 8), np.uint8),
        ([noise(3, 8, 8), noise(1, 8, 8)], 1, (2, 1, 8, 8), np.uint8),
        ([noise(1, 8, 8), noise(1, 8, 8)], 3, (2, 3, 8, 8), np.uint8),
        ([noise(1, 8, 8), noise(1, 8, 8, dtype=np.uint16)], None, (2, 1, 8, 8), np.uint16),
        ([noise(3, 8, 8), noise(1, 8, 8, dtype=np.uint16)], None, (2, 3, 8, 8), np.uint16),
        ([noise(1, 9, 8, 8), noise(1, 8, 8, 8)], None, (2, 1, 8, 8, 8), np.uint8),
    ],
)
def test_makes_all_images_alike(
    tmp_path: Path,
    images: list[Array],
    channels: int | None,
    shape: tuple[int, ...],
    dtype: Any,
) -> None:
    found = opened(Shelf(images), tmp_path, channels=channels)

    assert (found.pixels.shape, found.pixels.dtype) == (shape, dtype)


def test_8_bits_among_16_keep_their_share_of_the_range(tmp_path: Path) -> None:
    eight, sixteen = noise(3, 8, 8), noise(1, 8, 8, dtype=np.uint16)

    found = opened(Shelf([eight, sixteen]), tmp_path)

    assert np.array_equal(found.pixels[0], eight.astype(np.uint16) * 257)
    assert np.array_equal(found.pixels[1], np.repeat(sixteen, 3, axis=0))


def test_skips_what_cannot_be_made_alike(tmp_path: Path) -> None:
    found = opened(
        Shelf([noise(1, 8, 8), noise(1, 8, 8, 8), noise(4, 8, 8), noise(3, 8, 8)]), tmp_path
    )

    assert found.catalog.names.tolist() == ["n0", "n2"]
    assert [name for name, _ in found.skipped] == ["n1", "n3"]
    assert "3-D among 2-D" in found.skipped[0][1]


def test_says_why_none_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 3 images can be read: 2 x torn; 1 x wet"):
        opened(Shelf(["torn", "wet", "torn"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_tells_its_progress(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    opened(
        Shelf([noise(1, 8, 8), "torn"]),
        tmp_path,
        progress=lambda done, of: heard.append((done, of)),
    )

    assert heard == [(1, 2), (2, 2)]


def test_logs_counts_and_reasons_but_no_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(Shelf([noise(1, 8, 8), "torn"]), tmp_path)

    assert "skipped 1 of 2 images: 1 x torn" in caplog.text
    assert "n1" not in caplog.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_batch_is_a_copy_of_its_rows_in_their_order(tmp_path: Path, dtype: Any) -> None:
    shelf = Shelf([noise(3, 8, 8, dtype=dtype, seed=seed) for seed in range(5)])
    images = opened(shelf, tmp_path)

    batch_BCYX = images.batch(np.array([4, 0, 4]))

    assert np.array_equal(batch_BCYX.numpy(), np.stack([shelf.images[row] for row in (4, 0, 4)]))
    assert batch_BCYX.is_contiguous()
    assert batch_BCYX.to(torch.float32).max() > 200
    batch_BCYX.zero_()
    assert images.pixels.max() > 200


def test_a_crop_is_a_copy_of_its_box(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8, 8, seed=seed) for seed in range(3)])
    images = opened(shelf, tmp_path)

    crop_CZYX = images.crop(2, (1, 2, 3), (4, 5, 2))

    assert np.array_equal(crop_CZYX.numpy(), shelf.images[2][:, 1:5, 2:7, 3:5])
    crop_CZYX.zero_()
    assert np.array_equal(images.pixels[2], shelf.images[2])


@pytest.mark.parametrize("corner", [(-1, 0, 0), (0, 0, 5), (-9, 0, 0), (8, 3, 3)])
def test_what_of_a_crop_lies_outside_the_image_is_black(
    tmp_path: Path, corner: tuple[int, int, int]
) -> None:
    volume = noise(1, 8, 8, 8)
    images = opened(Shelf([volume]), tmp_path)
    framed = np.pad(volume, ((0, 0), *[(16, 16)] * 3))

    crop_CZYX = images.crop(0, corner, (4, 4, 4))

    z, y, x = (16 + start for start in corner)
    assert np.array_equal(crop_CZYX.numpy(), framed[:, z : z + 4, y : y + 4, x : x + 4])
