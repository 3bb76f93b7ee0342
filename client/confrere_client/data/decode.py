"""An image file becomes pixels: upright, without alpha, 8 or 16 bits, fitted to one size.

Shapes: C channels, Z Y X voxels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from confrere_client.data.png import plain_png
from confrere_client.source import UnreadableImage

Pixels: TypeAlias = NDArray[Any]
"""An image as (C, Y, X) or (C, Z, Y, X), uint8 or uint16."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""What a file may hold. Pillow's other readers stay shut: some start programs (EPS)."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""How the name of an image file may end; its content decides what it is."""

LIMIT_PIXELS = 89_478_485
"""Larger images are refused, as Pillow advises: a small file can claim to be enormous."""

STRETCH_PERCENTILES = (0.5, 99.5)
LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue add to grey. ITU-R BT.601, as in Pillow."""


def decode_image(path: Path, shape: tuple[int, ...] | None = None) -> Pixels:
    """Return the first image of a file as (C, Y, X); UnreadableImage with a reason without path.

    Grey and colour of 8 bits can be had at another, smaller *shape* (Y, X, as in the file),
    bilinear over all that a new pixel covers; a JPEG is then decoded to no more than twice that.

    EXIF orientation is applied, alpha is dropped, a palette and CMYK become RGB (or grey, when the
    palette is grey), 1 bit becomes 0 and 255. Grey of 16 bits and floats: see `to_pixels`. Pillow
    reads colour of 16 bits as 8.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            _refuse_huge(opened.size)
            image = plain_png(path, opened) or opened
            plain = shape is not None and image.mode in ("L", "RGB")
            if plain and shape:
                image.draft(image.mode, (2 * shape[1], 2 * shape[0]))
            ImageOps.exif_transpose(image, in_place=True)
            if plain and shape:
                return _channels_first(np.asarray(_shrunk(image, shape)))
            return _channels_first(to_pixels(_values(image)))
    except UnreadableImage:
        raise
    except Exception as fault:  # Pillow's decoders raise anything, from SyntaxError to struct.error
        raise UnreadableImage(_reason(path, fault)) from None


def _shrunk(image: Image.Image, shape: tuple[int, ...]) -> Image.Image:
    """Return *image*, which may have been turned, at *shape*, which was not."""
    down, along = shape
    turned = (image.height > image.width) != (down > along) and down != along
    size = (down, along) if turned else (along, down)
    return image.resize(size, Image.Resampling.BILINEAR)


def to_pixels(values: NDArray[Any]) -> Pixels:
    """Return *values* as they are if uint8, else as uint16 over the full range.

    Floats within 0 and 1 keep their scale. Everything else is stretched between its own 0.5 and
    99.5 percentiles: scanners use a part of the 16 bits (12 bits, an offset), so that images would
    be nearly black as they stand; and percentiles, not extremes, because one hot pixel or a
    burnt-in marker would press all tissue into a few grey levels. Absolute units are lost.
    """
    if not values.size:
        raise UnreadableImage("has no pixels")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise UnreadableImage(f"holds {values.dtype}, not grey levels")
    return _stretched(values)


def _stretched(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return *values* over 0 to 65535; what is not finite becomes the lowest."""
    low, high = _ends(values)
    # in place, and no wider than need be: an image may have millions of pixels
    wide = np.float64 if values.dtype.itemsize > 2 else np.float32
    levels: NDArray[Any] = values.astype(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(levels, low, out=levels)
        np.divide(levels, high - low if high > low else 1.0, out=levels)
    np.nan_to_num(levels, copy=False, nan=0.0)
    np.clip(levels, 0, 1, out=levels)
    np.multiply(levels, 65535, out=levels)
    np.rint(levels, out=levels)
    return levels.astype(np.uint16)


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    """Return which values shall become black and white."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise UnreadableImage("holds no finite value")
    least, most = float(finite.min()), float(finite.max())
    if values.dtype.kind == "f" and least >= 0 and most <= 1:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(finite, STRETCH_PERCENTILES))
    # a sparse image (a mask, one bright cell) is flat between the percentiles: use its extremes
    return (low, high) if high > low else (least, most)


def fit(image: Pixels, image_px: int, channels: int | None = None) -> Pixels:
    """Return *image* with its longer side at *image_px*, centred on a black square or cube.

    The aspect is kept and nothing is cropped away: what the shorter sides lack is black. Lanczos,
    anti-aliased. None leaves the channels as they are. Voxels are taken as cubes.
    """
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise UnreadableImage(f"has the shape {image.shape}, neither 2-D nor 3-D")
    resized = _resized(image, fitted_sides(image.shape[1:], image_px))
    return _centred(resized if channels is None else recolour(resized, channels), image_px)


def fitted_sides(sides: Sequence[int], image_px: int) -> tuple[int, ...]:
    """Return *sides* when the longest of them becomes *image_px* and their aspect is kept.

    >>> fitted_sides((50, 100), 64)
    (32, 64)
    """
    longest = max(sides)
    return tuple(max(1, round(side * image_px / longest)) for side in sides)


def recolour(image: Pixels, channels: int) -> Pixels:
    """Return *image* with that many channels: grey is repeated, colour becomes its luma."""
    count = image.shape[0]
    if count == channels:
        return image
    if count == 1:
        return np.repeat(image, channels, axis=0)
    if channels != 1:
        raise UnreadableImage(f"has {count} channels where {channels} are wanted")
    weights = LUMA if count == 3 else (1 / count,) * count
    grey = np.tensordot(np.asarray(weights, np.float32), image.astype(np.float32), axes=1)
    return np.rint(grey).astype(image.dtype)[None]


def deepen(image: Pixels) -> NDArray[np.uint16]:
    """Return *image* in 16 bits; 255 becomes 65535."""
    return image.astype(np.uint16) * np.uint16(257) if image.dtype == np.uint8 else image


def _values(image: Image.Image) -> NDArray[Any]:
    """Return what a Pillow image holds as (Y, X) or (Y, X, 3)."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    through = image.convert("RGBA") if image.mode in ("PA", "RGBa") else image
    colour = np.asarray(through if through.mode == "RGB" else through.convert("RGB"))
    palette_is_grey = image.mode in ("P", "PA") and bool((colour == colour[..., :1]).all())
    return colour[..., 0] if palette_is_grey else colour


def _channels_first(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def _refuse_huge(size: tuple[int, int]) -> None:
    if size[0] * size[1] > LIMIT_PIXELS:
        million = LIMIT_PIXELS // 1_000_000
        raise UnreadableImage(f"is {size[0]} x {size[1]} pixels, over {million} million")


def _reason(path: Path, fault: Exception) -> str:
    """Say why a file cannot be decoded; Pillow's own messages may hold the path."""
    match fault:
        case FileNotFoundError():
            return "file is missing"
        case PermissionError():
            return "file may not be read"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"is over {LIMIT_PIXELS // 1_000_000} million pixels"
        case UnidentifiedImageError() if path.stat().st_size == 0:
            return "file is empty"
        case UnidentifiedImageError():
            return f"is none of {', '.join(FORMATS)}, or its header is corrupt"
        case OSError() if path.is_dir():
            return "is a folder"
    return f"is truncated or corrupt ({type(fault).__name__})"


def _resized(image: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Return *image* with its spatial axes at *shape*."""
    planes = image.reshape(-1, *image.shape[-2:])
    flat = np.stack([_plane(plane, shape[-2:]) for plane in planes])
    if len(shape) == 2:
        return flat
    # the same filter along Z: a picture whose rows are slices and whose columns are all voxels
    slabs = flat.reshape(*image.shape[:2], -1)
    return np.stack([_plane(slab, (shape[0], slab.shape[1])) for slab in slabs]).reshape(
        image.shape[0], *shape
    )


def _plane(plane: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Return one grey picture at another size."""
    if plane.shape == shape:
        return plane
    wide = plane if plane.dtype == np.uint8 else plane.astype(np.float32)
    size = (shape[1], shape[0])
    made = Image.fromarray(wide).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    limits = np.iinfo(plane.dtype)  # Lanczos overshoots at edges
    levels: Pixels = np.rint(np.clip(np.asarray(made), limits.min, limits.max))
    return levels.astype(plane.dtype)


def _centred(image: Pixels, image_px: int) -> Pixels:
    """Return *image* in the middle of a black square or cube."""
    canvas = np.zeros((image.shape[0], *(image_px for _ in image.shape[1:])), image.dtype)
    starts = [(image_px - side) // 2 for side in image.shape[1:]]
    inside = tuple(
        slice(start, start + side) for start, side in zip(starts, image.shape[1:], strict=True)
    )
    canvas[(slice(None), *inside)] = image
    return canvas
