import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.decode import decode_image, deepen, fit, recolour, to_pixels
from confrere_client.source import UnreadableImage


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **how: Any) -> Path:
    image.save(folder / name, **how)
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableImage) as told:
        decode_image(path)
    assert str(path.parent) not in str(told.value)
    assert told.value.__cause__ is None
    return str(told.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_gives_grey_and_colour_of_8_bits_as_stored(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    stored = noise(*shape)

    image = decode_image(saved(tmp_path, Image.fromarray(stored), name))

    assert image.dtype == np.uint8
    assert np.array_equal(image, stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "name", "channels"),
    [
        ("1", "a.png", 1),
        ("LA", "a.png", 1),
        ("P", "a.png", 3),
        ("RGBA", "a.png", 3),
        ("CMYK", "a.jpg", 3),
        ("CMYK", "a.tif", 3),
        ("YCbCr", "a.jpg", 3),
    ],
)
def test_gives_grey_or_rgb_whatever_the_mode(
    tmp_path: Path, mode: str, name: str, channels: int
) -> None:
    colour = Image.fromarray(noise(6, 6, 3)).convert(mode)

    image = decode_image(saved(tmp_path, colour, name))

    assert (image.shape, image.dtype) == ((channels, 6, 6), np.uint8)
    assert image.max() > 100


def test_a_grey_palette_is_grey(tmp_path: Path) -> None:
    levels = Image.fromarray(noise(6, 6)).quantize(16)

    image = decode_image(saved(tmp_path, levels))

    assert image.shape == (1, 6, 6)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    image = decode_image(saved(tmp_path, Image.new("RGBA", (4, 4), (200, 100, 50, 0))))

    assert image[:, 0, 0].tolist() == [200, 100, 50]


def test_applies_the_orientation_that_the_camera_noted(tmp_path: Path) -> None:
    lying = np.zeros((4, 8), np.uint8)
    lying[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise

    image = decode_image(saved(tmp_path, Image.fromarray(lying), exif=exif))

    assert image.shape == (1, 8, 4)
    assert image[0, :, -1].tolist() == [255] * 8


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_stretches_12_bits_in_16_to_the_full_range(tmp_path: Path, name: str) -> None:
    twelve = (noise(40, 40).astype(np.uint16) * 8) + 1000
    twelve[0, 0] = 65535  # one hot pixel

    image = decode_image(saved(tmp_path, Image.fromarray(twelve), name))

    assert image.dtype == np.uint16
    assert (image.min(), image.max()) == (0, 65535)
    assert 25_000 < np.median(image) < 40_000


def test_stretches_a_float_tiff(tmp_path: Path) -> None:
    hounsfield = noise(20, 20).astype(np.float32) * 10 - 1000
    hounsfield[0, 0] = np.nan

    image = decode_image(saved(tmp_path, Image.fromarray(hounsfield), "a.tif"))

    assert image.dtype == np.uint16
    assert image[0, 0, 0] == 0
    assert image.max() == 65535


def test_floats_within_one_keep_their_scale() -> None:
    assert to_pixels(np.array([[0.25, 0.5]])).tolist() == [[16384, 32768]]


def test_a_sparse_image_is_not_lost_between_the_percentiles() -> None:
    sparse = np.zeros((100, 100), np.uint16)
    sparse[0, 0] = 7

    assert to_pixels(sparse).max() == 65535


@pytest.mark.parametrize("value", [0, 1234, 65535])
def test_a_flat_image_is_black(value: int) -> None:
    assert to_pixels(np.full((3, 3), value, np.uint16)).max() == 0


def test_huge_numbers_do_not_overflow() -> None:
    assert to_pixels(np.array([[-1e308, 0, 1e308]])).dtype == np.uint16


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.empty((0, 3)), "no pixels"),
        (np.full((2, 2), np.nan), "no finite value"),
        (np.zeros((2, 2), np.complex64), "not grey levels"),
    ],
)
def test_says_why_values_are_no_pixels(values: NDArray[Any], said: str) -> None:
    with pytest.raises(UnreadableImage, match=said):
        to_pixels(values)


def test_says_why_a_file_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    whole = saved(tmp_path, Image.fromarray(noise(60, 60))).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[:2000])
    (tmp_path / "flipped.png").write_bytes(whole[:1000] + b"\xff" * 50 + whole[1050:])

    assert refusal(tmp_path / "gone.png") == "file is missing"
    assert refusal(tmp_path / "empty.png") == "file is empty"
    assert "is none of PNG, JPEG, TIFF, BMP" in refusal(tmp_path / "text.png")
    assert refusal(tmp_path / "folder.png") == "is a folder"
    assert "truncated or corrupt" in refusal(tmp_path / "half.png")
    assert "truncated or corrupt" in refusal(tmp_path / "flipped.png")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_refuses_an_image_that_claims_to_be_enormous(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    claim = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + claim + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)

    assert "89 million" in refusal(tmp_path / "bomb.png")


def test_never_starts_a_postscript_interpreter(tmp_path: Path) -> None:
    saved(tmp_path, Image.fromarray(noise(4, 4)), "a.eps").rename(tmp_path / "a.png")

    assert "is none of" in refusal(tmp_path / "a.png")


@given(
    sides=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    image_px=st.integers(1, 20),
    deep=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_fits_the_longer_side_keeps_the_aspect_and_crops_nothing(
    sides: list[int], image_px: int, deep: bool
) -> None:
    white = np.full((1, *sides), 65535 if deep else 255, np.uint16 if deep else np.uint8)

    fitted = fit(white, image_px)

    inside = np.argwhere(fitted[0] > 0)
    extents = inside.max(0) - inside.min(0) + 1
    wanted = [max(1, round(side * image_px / max(sides))) for side in sides]
    assert fitted.shape == (1, *(image_px for _ in sides))
    assert fitted.dtype == white.dtype
    assert extents.tolist() == wanted
    assert abs(int(inside.min()) - (image_px - min(wanted)) // 2) <= image_px
    assert fitted.max() == white.max()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = noise(3, 8, 8)

    assert np.array_equal(fit(image, 8), image)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 64)])
def test_shrinks_without_aliases(shape: tuple[int, ...]) -> None:
    chequered = (np.indices(shape).sum(0) % 2 * 255).astype(np.uint8)[None]

    small = fit(chequered, 8)

    middle = small[(0, *(slice(2, 6) for _ in shape))]
    assert np.all(np.abs(middle.astype(int) - 128) < 12)


def test_8_and_16_bits_shrink_alike() -> None:
    image = noise(1, 40, 30)

    small, deep = fit(image, 10), fit(deepen(image), 10)

    assert np.all(np.abs(deep / 257 - small) <= 1.0)


def test_grey_becomes_colour_and_back() -> None:
    grey = noise(1, 4, 4)

    assert np.array_equal(recolour(recolour(grey, 3), 1), grey)
    assert fit(noise(3, 9, 9), 4, 1).shape == (1, 4, 4)
    assert fit(noise(1, 9, 9), 4, 3).shape == (3, 4, 4)


def test_refuses_channels_that_have_no_meaning() -> None:
    with pytest.raises(UnreadableImage, match="has 4 channels where 3 are wanted"):
        recolour(noise(4, 2, 2), 3)
    with pytest.raises(UnreadableImage, match="neither 2-D nor 3-D"):
        fit(noise(4, 2), 3)


def test_reads_real_pictures_of_every_sort(shared_data: Path) -> None:
    folders = (
        "cxr_covid_ccby_768",
        "blood_bccd_boxes/JPEGImages",
        "ct_iqothnccd",
        "nuclei_dsb2018_fluorescence",
    )
    for folder in folders:
        found = sorted(
            path
            for path in (shared_data / folder).rglob("*")
            if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif")
        )

        images = [fit(decode_image(path), 32) for path in found[::40][:8]]

        assert images
        assert all(image.shape[-2:] == (32, 32) for image in images)
