"""Draws stained tissue: glands, stroma and nuclei; the disease is in how nuclei are shaped and set.

Every class has the same amount of nucleus and of lumen, so that colour says little about it.
"""

import math

import numpy as np

from confrere_client.phantom.anatomy import (
    Canvas,
    Drawing,
    Field,
    Spots,
    blob,
    fibres,
    inside,
    join,
    smooth_field,
    stamp,
)

CLASSES = {"normal": 0.34, "inflammation": 0.26, "adenoma": 0.22, "carcinoma": 0.18}
"""How often each class is seen where no site differs."""

CHANNELS = 3

HAEMATOXYLIN = np.array([0.95, 1.05, 0.50], np.float32)
EOSIN = np.array([0.12, 0.62, 0.28], np.float32)
"""Optical density in red, green and blue (after Ruifrok and Johnston, 2001)."""

INK = 13 * 0.085**2
"""Nuclear area of one gland, over pi, whatever its class."""


def draw(rng: np.random.Generator, canvas: Canvas, finding: str) -> Drawing:
    """Return a tile; a diseased one has a focus in which the glands have changed."""
    focus_YX = _focus(rng, canvas)
    ill_YX = focus_YX < 1 if finding != "normal" else np.zeros(focus_YX.shape, bool)
    cells, holes = _tissue(rng, canvas, ill_YX, finding)
    nuclei_YX = stamp(canvas.px, cells)
    lumen_YX = stamp(canvas.px, holes, 2.0)
    return Drawing(picture_CZYX=_stain(rng, canvas, nuclei_YX, lumen_YX), mask_ZYX=ill_YX)


def _focus(rng: np.random.Generator, canvas: Canvas) -> Field:
    centre_D = rng.uniform(-0.35, 0.35, 2)
    return blob(rng, canvas, centre_D, rng.uniform(0.85, 1.3), 0.12, 3)


def _tissue(
    rng: np.random.Generator, canvas: Canvas, ill_YX: Field, finding: str
) -> tuple[Spots, Spots]:
    """Return nuclei and lumens of glands on a jittered, turned lattice."""
    cells, holes = [], []
    for centre_D in _lattice(rng, 0.95 * canvas.zoom):
        at = np.clip(((centre_D + 1) * canvas.px / 2).astype(int), 0, canvas.px - 1)
        kind = finding if ill_YX[at[0], at[1]] else "normal"
        nuclei, lumen = _gland(rng, kind)
        cells.append(_moved(nuclei, centre_D, canvas.zoom))
        holes.append(_moved(lumen, centre_D, canvas.zoom))
    return join(cells), join(holes)


def _lattice(rng: np.random.Generator, step: float) -> Field:
    line = np.arange(-3, 4) * step
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    points += rng.normal(0, 0.09 * step, points.shape) + rng.uniform(-step / 2, step / 2, 2)
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = points @ turn
    return np.asarray(points[np.all(np.abs(points) < 1.4, axis=1)], np.float32)


def _gland(rng: np.random.Generator, kind: str) -> tuple[Spots, Spots]:
    """Return the nuclei and the lumen of one gland at the origin."""
    return {
        "normal": _ring,
        "inflammation": _crowd,
        "adenoma": _palisade,
        "carcinoma": _sheet,
    }[kind](rng)


def _ring(rng: np.random.Generator) -> tuple[Spots, Spots]:
    """Round nuclei of one size, evenly set around a round lumen."""
    angle = _even_angles(rng, 13, 0.08)
    away = 0.36 * (1 + rng.normal(0, 0.04, 13))
    return _spots(rng, away, angle, size=0.085, aspect=1.15, lean=0.5), _lumen(rng, 0.20, 1.1)


def _crowd(rng: np.random.Generator) -> tuple[Spots, Spots]:
    """Small round nuclei in a loose heap, the lumen between them."""
    count = round(INK / 0.062**2)
    angle, away = rng.uniform(0, 2 * math.pi, count), 0.55 * np.sqrt(rng.uniform(0.05, 1, count))
    return _spots(rng, away, angle, size=0.062, aspect=1.05, lean=9), _lumen(rng, 0.20, 1.3)


def _palisade(rng: np.random.Generator) -> tuple[Spots, Spots]:
    """Slim nuclei that point at the lumen, in more than one row."""
    angle = _even_angles(rng, 16, 0.12)
    away = 0.37 + 0.04 * np.where(np.arange(16) % 2, 1, -1) + rng.normal(0, 0.02, 16)
    return _spots(rng, away, angle, size=0.0766, aspect=2.1, lean=0.12), _lumen(rng, 0.20, 1.2)


def _sheet(rng: np.random.Generator) -> tuple[Spots, Spots]:
    """Unequal, dented nuclei without order, and a ragged lumen."""
    size = 0.105 * np.exp(np.clip(rng.normal(0, 0.3, 24), -0.6, 0.5))
    size = size[: max(3, int(np.searchsorted(np.cumsum(size**2), INK)) + 1)]
    count = len(size)
    angle, away = rng.uniform(0, 2 * math.pi, count), 0.5 * np.sqrt(rng.uniform(0.05, 1, count))
    return _spots(rng, away, angle, size=size, aspect=1.5, lean=9, dent=0.1), _lumen(rng, 0.2, 1.4)


def _even_angles(rng: np.random.Generator, count: int, jitter: float) -> Field:
    turn = np.arange(count) / count + rng.uniform()
    return np.asarray(2 * math.pi * turn + rng.normal(0, jitter, count), np.float32)


def _spots(
    rng: np.random.Generator,
    away: Field,
    angle: Field,
    *,
    size: float | Field,
    aspect: float,
    lean: float,
    dent: float = 0.05,
) -> Spots:
    """Return nuclei at polar positions; they point outwards, give or take *lean* radians."""
    count = len(angle)
    return Spots(
        centre_ND=np.stack([away * np.cos(angle), away * np.sin(angle)], axis=1),
        size_N=np.broadcast_to(size, count) * np.exp(rng.normal(0, 0.06, count)),
        aspect_N=aspect * np.exp(rng.normal(0, 0.08, count)),
        angle_N=angle + rng.normal(0, lean, count),
        dent_N=dent * rng.uniform(0, 2, count),
        weight_N=rng.uniform(0.75, 1, count),
    )


def _lumen(rng: np.random.Generator, size: float, aspect: float) -> Spots:
    one = np.ones(1, np.float32)
    return Spots(
        centre_ND=rng.normal(0, 0.03, (1, 2)),
        size_N=size * np.exp(rng.normal(0, 0.15, 1)),
        aspect_N=aspect * one,
        angle_N=rng.uniform(0, math.pi, 1),
        dent_N=rng.uniform(0, 0.12, 1),
        weight_N=one,
    )


def _moved(spots: Spots, centre_D: Field, zoom: float) -> Spots:
    moved = {**vars(spots), "centre_ND": spots.centre_ND * zoom + centre_D}
    return Spots(**{**moved, "size_N": spots.size_N * zoom})


def _stain(rng: np.random.Generator, canvas: Canvas, nuclei_YX: Field, lumen_YX: Field) -> Field:
    """Return (3, Y, X): light that two dyes let through (Beer-Lambert)."""
    strands = fibres(rng, canvas, rng.uniform(5, 9), rng.uniform(0, math.pi))
    patchy = smooth_field(rng, canvas, 5)
    body = (0.75 + 0.12 * strands + 0.12 * patchy) * (1 - lumen_YX)
    dye_H = rng.uniform(0.75, 1.15) * (nuclei_YX * (1 - 0.2 * lumen_YX) + 0.06)
    dye_E = rng.uniform(0.6, 1.1) * np.clip(body, 0.02, None) * (1 - 0.5 * nuclei_YX)
    density = HAEMATOXYLIN[:, None, None] * dye_H + EOSIN[:, None, None] * dye_E
    return np.asarray(0.97 * np.exp(-density), np.float32)
