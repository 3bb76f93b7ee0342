"""Masks come to lie where their images do, without a new value; what cannot serve is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.images import Images, open_images
from confrere_client.data.masks import Masks, decode_mask, fitted, read_mask
from confrere_client.source import Record, UnreadableImage
from confrere_common.errors import DataError
from confrere_common.family import Named


def record(mask: NDArray[Any], shape: tuple[int, ...] = (4, 6)) -> Record:
    return Record(
        name="i", patient="p", decode=lambda: np.zeros((1, *shape), np.uint8), mask=lambda: mask
    )


def test_a_mask_takes_its_image_s_place_and_no_new_value() -> None:
    mask = np.zeros((4, 8), np.uint8)
    mask[1:3, 2:6] = 7

    found = fitted(mask, (16, 16))

    assert set(np.unique(found)) == {0, 7}
    assert np.argwhere(found == 7).min(axis=0).tolist() == [6, 4]
    assert np.argwhere(found == 7).max(axis=0).tolist() == [9, 11]


def test_a_mask_of_a_volume_is_fitted_along_all_axes() -> None:
    found = fitted(np.ones((2, 4, 4), np.uint8), (8, 8, 8))

    assert found.sum() == 4 * 8 * 8
    assert not found[:2].any()


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((6, 4), np.uint8), "mask is 6 x 4 for an image of 4 x 6"),
        (np.full((4, 6), np.nan), "mask holds NaN"),
        (np.full((4, 6), 0.5), "mask holds other values than classes"),
        (np.full((4, 6), -1), "mask holds other values than classes"),
        (np.full((4, 6), 999), "mask holds other values than classes"),
        (np.full((4, 6), "x"), "not classes"),
    ],
)
def test_a_mask_that_cannot_serve_says_why(mask: NDArray[Any], reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_mask(record(mask))


def test_black_and_white_is_one_class_and_an_empty_mask_is_a_mask() -> None:
    white = np.full((4, 6), 255, np.uint8)

    assert np.unique(read_mask(record(white))).tolist() == [1]
    assert not read_mask(record(np.zeros((4, 6), bool))).any()


@pytest.mark.parametrize("ending", ["png", "npy", "npz"])
def test_masks_are_read_from_pictures_and_arrays(tmp_path: Path, ending: str) -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    path = tmp_path / f"mask.{ending}"
    save: dict[str, Callable[[], Any]] = {
        "png": lambda: Image.fromarray(mask).save(path),
        "npy": lambda: np.save(path, mask),
        "npz": lambda: np.savez(path, mask=mask),
    }
    save[ending]()

    assert np.array_equal(decode_mask(path), mask)


def test_damage_is_a_reason_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    colour = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")

    for name, said in (("bad.png", "cannot be read"), ("gone.npy", "missing"),
                       ("colour.png", "coloured")):  # fmt: skip
        with pytest.raises(UnreadableImage, match=said) as fault:
            decode_mask(tmp_path / name)
        assert str(tmp_path) not in str(fault.value)


def with_masks(folder: Path, paint: Callable[..., Path]) -> Images:
    """Three images: one with a mask, one with a mask of another shape, one without."""
    rows = ["path,mask"]
    for number, shape in enumerate([(9, 6), (6, 9), None]):
        paint(folder / f"{number}.png", seed=number)
        if shape is not None:
            Image.fromarray(np.ones(shape, np.uint8)).save(folder / f"m{number}.png")
        rows.append(f"{number}.png,{f'm{number}.png' if shape else ''}")
    (folder / "table.csv").write_text("\n".join(rows))
    source = Named(name="catalog", knobs={"path": "table.csv"})
    return open_images(source, folder=folder, image_px=16, cache_dir=folder / "cache")


def test_a_catalog_s_masks_lie_beside_the_images(tmp_path: Path, paint: Any) -> None:
    images = with_masks(tmp_path, paint)

    assert images.has("mask").tolist() == [True, False, False]
    assert images.known("mask", np.array([0])).sum() == 16 * 11
    assert images.masks is not None
    assert images.masks.told["skipped"] == {"mask is 6 x 9 for an image of 9 x 6": 1}
    before = images.digest
    Image.fromarray(np.zeros((9, 6), np.uint8)).save(tmp_path / "m0.png")
    again = open_images(
        Named(name="catalog", knobs={"path": "table.csv"}),
        folder=tmp_path, image_px=16, cache_dir=tmp_path / "cache",
    )  # fmt: skip
    assert again.digest != before
    assert not again.known("mask", np.array([0])).any()


def test_what_each_mask_holds_is_known_of_masks_that_an_earlier_version_read_too(
    tmp_path: Path,
) -> None:
    masks = [np.zeros((4, 6), np.uint8), np.eye(4, 6, dtype=np.uint8) * 3, np.ones((4, 6))]
    masks[2][0, :2] = 5, 0

    def opened() -> Masks:
        return Masks(records=[record(mask) for mask in masks], home=tmp_path, shape=(4, 6))

    once = opened()
    assert once.told["kinds"] == [[], [3], [1, 5]]
    assert [(np.flatnonzero(row) + 1).tolist() for row in once.holds] == once.told["kinds"]
    told = {key: value for key, value in once.told.items() if key != "kinds"}
    (tmp_path / "masks.json").write_text(json.dumps(told))
    assert opened().told == once.told


def test_a_structure_that_vanishes_at_the_images_size_is_held_by_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:32], mask[40, 40] = 1, 2

    found = Masks(records=[record(mask, (64, 64))], home=tmp_path, shape=(8, 8))

    assert found.holds.tolist() == [[True, False]]


def test_a_phantom_s_lesions_are_its_masks_and_other_facts_are_missed(tmp_path: Path) -> None:
    knobs = {"modality": "lesion", "images": 3, "patients": 3, "sites": 1, "image_px": 16}
    images = open_images(
        Named(name="phantom", knobs=knobs), folder=tmp_path, image_px=16, cache_dir=tmp_path
    )

    assert images.known("mask", np.arange(3)).flatten(1).any(1).all()
    with pytest.raises(DataError, match="these images have no findings"):
        images.known("findings", np.arange(3))
