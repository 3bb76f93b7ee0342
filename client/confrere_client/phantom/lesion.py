"""Draws a spot on the skin; the disease is in its border, its symmetry and its inner texture."""

import math

import numpy as np

from confrere_client.phantom.anatomy import (
    Canvas,
    Drawing,
    Field,
    blob,
    fibres,
    inside,
    smooth_field,
)

CLASSES = {"nevus": 0.40, "keratosis": 0.24, "fibroma": 0.18, "melanoma": 0.18}
"""How often each class is seen where no site differs."""

CHANNELS = 3

SKIN = np.array([0.86, 0.66, 0.57], np.float32)
MELANIN = np.array([0.62, 1.05, 1.25], np.float32)
"""Optical density of pigment in red, green and blue."""

BORDERS = {"nevus": (0.06, 3), "keratosis": (0.08, 4), "fibroma": (0.06, 3), "melanoma": (0.15, 9)}
"""How far the border strays and how finely."""


def draw(rng: np.random.Generator, canvas: Canvas, finding: str) -> Drawing:
    """Return skin with one lesion in it."""
    rough, cells = BORDERS[finding]
    size = canvas.zoom * rng.uniform(0.42, 0.68)
    distance = blob(rng, canvas, rng.uniform(-0.3, 0.3, 2), size, rough, cells)
    pigment = _texture(rng, canvas, finding, distance) * inside(distance, rng.uniform(0.1, 0.35))
    skin = SKIN * np.exp(rng.normal(0, 0.05, 3))
    light = 1 + 0.05 * smooth_field(rng, canvas, 2) + 0.02 * smooth_field(rng, canvas, 24)
    density = 0.6 * rng.uniform(0.75, 1.3) * pigment + _hairs(rng, canvas)
    picture = skin[:, None, None] * light * np.exp(-MELANIN[:, None, None] * density)
    return Drawing(picture=np.clip(picture, 0, 1).astype(np.float32), mask=distance < 1)


def _texture(rng: np.random.Generator, canvas: Canvas, finding: str, distance: Field) -> Field:
    """Return pigment of mean about 1 in the pattern of the class."""
    if finding == "nevus":
        return _network(rng, canvas)
    if finding == "keratosis":
        lumps = np.exp(-((smooth_field(rng, canvas, 9) - 1.0) ** 2) / 0.3)
        return np.asarray(0.7 + 1.1 * lumps, np.float32)
    if finding == "fibroma":
        rim = np.exp(-(((distance - 0.8) / 0.28) ** 2))
        return np.asarray(0.6 + 0.8 * rim + 0.08 * smooth_field(rng, canvas, 8), np.float32)
    clouds = smooth_field(rng, canvas, 4) * 0.45 + smooth_field(rng, canvas, 11) * 0.25
    return np.asarray(np.clip(1 + clouds, 0.1, 2.4), np.float32)


def _network(rng: np.random.Generator, canvas: Canvas) -> Field:
    """Return a regular net of two crossing sets of strands."""
    angle, waves = rng.uniform(0, math.pi), rng.uniform(11, 15) / canvas.zoom
    cross = [fibres(rng, canvas, waves, angle + turn) for turn in (0.0, math.pi / 2)]
    return np.asarray(0.88 + 0.32 * np.maximum(*cross), np.float32)


def _hairs(rng: np.random.Generator, canvas: Canvas) -> Field:
    """Return a few dark lines, which any class may have."""
    total = np.zeros((canvas.px, canvas.px), np.float32)
    for _ in range(int(rng.poisson(1.5))):
        angle, bend = rng.uniform(0, math.pi), rng.normal(0, 0.2)
        y, x = canvas.grid
        along, across = (
            y * math.cos(angle) + x * math.sin(angle),
            x * math.cos(angle) - y * math.sin(angle),
        )
        line = (across + bend * along**2 - rng.uniform(-0.9, 0.9)) / 0.02
        total += np.asarray(0.7 * np.exp(-(line**2)), np.float32)
    return total
