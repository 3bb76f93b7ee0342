from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_exams import exams_of
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from confrere_client.ingest.burnt_in import find_text, masked

SURE_ENOUGH = 0.25
SIDE = 320


def ultrasound(seed: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIDE, :SIDE]
    fan = (abs(x - SIDE / 2) < 0.6 * (y + 20)) & ((x - SIDE / 2) ** 2 + y**2 < (0.95 * SIDE) ** 2)
    speckle = gaussian_filter(np.random.default_rng(seed).rayleigh(40, (SIDE, SIDE)), 1.5)
    return np.asarray(speckle * fan).clip(0, 255).astype(np.uint8)


def radiograph(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse, fine = (gaussian_filter(rng.normal(size=(SIDE, SIDE)), width) for width in (30, 1))
    smooth = (coarse - coarse.min()) / np.ptp(coarse) * 200 + 15 * fine
    return np.asarray(smooth.clip(0, 255)).astype(np.uint8)


def labelled(
    image: NDArray[np.uint8], size: int, at: tuple[int, int], text: str
) -> NDArray[np.uint8]:
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text(at, text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(canvas)


@pytest.mark.parametrize("size", [10, 14, 20, 32])
@pytest.mark.parametrize("kind", [ultrasound, radiograph])
def test_a_burnt_in_name_is_found_where_it_stands(kind: Any, size: int) -> None:
    image = labelled(kind(size), size, (15, 40), "QUARKBEIN 1957-03-12")

    found = find_text(image[None])

    assert found.score >= SURE_ENOUGH
    assert any(30 <= top <= 40 + size and left < 60 for top, left, _, _ in found.boxes)


@pytest.mark.parametrize("kind", [ultrasound, radiograph])
def test_tissue_is_seldom_taken_for_text(kind: Any) -> None:
    flagged = [find_text(kind(seed)[None]).score >= SURE_ENOUGH for seed in range(8)]

    assert sum(flagged) <= 1


def test_dark_text_and_deep_pixels_and_colour_are_found_too() -> None:
    dark = 255 - labelled(np.zeros((SIDE, SIDE), np.uint8), 16, (30, 30), "NAME: XAVER")
    deep = dark.astype(np.uint16) * 16
    colour = np.stack([np.zeros_like(dark), 255 - dark, np.zeros_like(dark)])

    assert all(find_text(image).score >= SURE_ENOUGH for image in (dark[None], deep[None], colour))


def test_a_masked_picture_has_no_text_left() -> None:
    image = labelled(ultrasound(1), 16, (15, 20), "QUARKBEIN XAVER")[None]

    hidden = masked(image, find_text(image).boxes)

    assert find_text(hidden).score < SURE_ENOUGH
    assert np.array_equal(hidden[:, 100:], image[:, 100:])


@pytest.mark.parametrize("word", ["PWR", "OB", "C 61"])
def test_short_words_are_masked_where_there_is_other_text(word: str) -> None:
    plain = np.zeros((SIDE, SIDE), np.uint8)
    alone = labelled(plain, 16, (200, 250), word)[None]
    beside = labelled(alone[0], 16, (15, 40), "QUARKBEIN 1957")[None]

    assert find_text(alone).score < SURE_ENOUGH  # too little to call it text
    assert masked(beside, find_text(beside).boxes).max() == 0


def test_what_is_found_in_real_ultrasound_and_what_is_not(shared_data: Path) -> None:
    """docs/ingest.md tells these results."""
    folder = shared_data / "ingest_dicom_pydicom"
    bright = {}
    for name in ("jpeg2k", "palette", "rgb_color", "ybr_color"):
        exam = exams_of(folder / f"examples_{name}.dcm")[0]
        found = find_text(exam.pixels)
        hidden = masked(exam.pixels, found.boxes)
        left = _bright_in_head(hidden) / _bright_in_head(exam.pixels)
        bright[name] = (found.score, left)

    assert {name: score for name, (score, _) in bright.items()} == {
        "jpeg2k": 1, "palette": 1, "rgb_color": 1, "ybr_color": 0,
    }  # fmt: skip
    assert bright["palette"][1] < 0.05  # every word: what is left is the skin below
    assert bright["jpeg2k"][1] < 0.02  # but for the maker's sign
    assert bright["rgb_color"][1] < 0.2  # and a few letters of it in half the size
    assert bright["ybr_color"][1] == 1  # nothing: soft letters of six pixels


def _bright_in_head(image_CYX: NDArray[Any]) -> int:
    """Count what is grey to white above the tissue: text, and the maker's sign."""
    return int((image_CYX[:, : image_CYX.shape[1] // 5].min(axis=0) > 60).sum())


@pytest.mark.parametrize("value", [0, 200])
def test_a_blank_picture_has_no_text(value: int) -> None:
    assert find_text(np.full((1, 50, 60), value, np.uint8)).score == 0
