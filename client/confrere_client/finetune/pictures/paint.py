"""Colours, outlines, boxes and heat on images.

Shapes: C channels, [Z] Y X voxels (Z only in 3-D), K classes with background first.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from confrere_client.finetune.pictures.gallery import Picture

HUES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0), (240, 228, 66))
"""Colours of classes that the colour-blind tell apart (https://jfly.uni-koeln.de/color/)."""
CALLED = ("orange", "sky blue", "green", "pink", "vermilion", "yellow")
RIGHT, WRONG = (0, 158, 115), (213, 94, 0)
SIDE = 192
"""Pixels of a picture's longer side at least: small images are enlarged without smoothing."""
FILL = 0.35


def slice_of(image_CZYX: Tensor | NDArray[np.generic], place: int | None) -> NDArray[np.generic]:
    """Return a volume's slice at *place* (its middle when None); an image as it is."""
    plain = np.asarray(image_CZYX)
    if plain.ndim < 4:
        return plain
    return np.asarray(plain[:, plain.shape[1] // 2 if place is None else place])


def grey(image_CYX: NDArray[np.generic]) -> Picture:
    """Return stored pixels as a picture, 16 bits as 8."""
    top = 255.0 if image_CYX.dtype == np.uint8 else 65535.0
    pixels_CYX = np.asarray(image_CYX, np.float64) / top * 255
    whole = np.broadcast_to(pixels_CYX, (3, *pixels_CYX.shape[1:]))
    return np.ascontiguousarray(whole.round().astype(np.uint8).transpose(1, 2, 0))


def enlarged(picture: Picture) -> tuple[Picture, int]:
    """Return a picture whose longer side has 192 pixels or more, and how many times larger."""
    times = max(1, -(-SIDE // max(picture.shape[:2])))
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1), times


def with_mask(picture: Picture, mask_YX: NDArray[np.int64]) -> Picture:
    """Return the picture enlarged, each class tinted in its colour and outlined."""
    whole, times = enlarged(picture)
    large_YX = np.repeat(np.repeat(mask_YX, times, axis=0), times, axis=1)
    painted = whole.astype(np.float64)
    for kind in np.unique(large_YX[large_YX > 0]):
        colour = np.array(HUES[(int(kind) - 1) % len(HUES)], np.float64)
        inside = large_YX == kind
        painted[inside] = (1 - FILL) * painted[inside] + FILL * colour
        painted[edge(inside)] = colour
    return painted.round().astype(np.uint8)


def edge(inside_YX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that touch what is not in it, two pixels wide."""
    core = inside_YX
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside_YX & ~core)


def with_boxes(
    picture: Picture, boxes: NDArray[np.float64], colours: Sequence[tuple[int, int, int]]
) -> Picture:
    """Return the picture enlarged with boxes (low X Y, high X Y) in their colours."""
    whole, times = enlarged(picture)
    image = Image.fromarray(whole)
    pen = ImageDraw.Draw(image)
    for box, colour in zip(boxes, colours, strict=True):
        x0, y0, x1, y1 = (float(value) * times for value in box)
        pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=colour, width=2)
    return np.asarray(image)


def with_heat(picture: Picture, heat_YX: NDArray[np.float64], top: float | None = None) -> Picture:
    """Return the picture enlarged, glowing where *heat* is high; it is brightest at *top*."""
    whole, times = enlarged(picture)
    limit = top if top is not None else float(np.quantile(heat_YX, 0.995))
    share_YX = np.clip(heat_YX / limit, 0, 1) if limit > 0 else np.zeros_like(heat_YX)
    large = np.repeat(np.repeat(share_YX, times, axis=0), times, axis=1)[..., None]
    dim = whole.astype(np.float64) * 0.6
    # Dark over red to yellow: brighter is hotter, also without colours.
    glow = np.concatenate([np.minimum(1, 2 * large), np.maximum(0, 2 * large - 1), 0 * large], 2)
    return np.clip(dim * (1 - large) + 255 * glow * large, 0, 255).round().astype(np.uint8)


def framed(picture: Picture, colour: tuple[int, int, int]) -> Picture:
    """Return the picture enlarged in a frame of a colour."""
    whole, _ = enlarged(picture)
    ringed = np.full((whole.shape[0] + 10, whole.shape[1] + 10, 3), colour, np.uint8)
    ringed[5:-5, 5:-5] = whole
    return ringed
