"""Draws stained tissue: glands, stroma and nuclei; the disease is in how nuclei are shaped and set.

Every class has about as much nucleus and lumen, so that colour says little about it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from confrere_client.phantom.anatomy import (
    Canvas,
    Drawing,
    Field,
    Spots,
    blob,
    fibres,
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
"""Nuclear area of a gland, over pi, whatever its class; a unit is half the image."""

HOLLOW = 0.2**2
"""Area of its lumen, likewise."""


@dataclass(frozen=True, kw_only=True)
class Gland:
    """How the nuclei of a gland are shaped and set."""

    nuclei: int
    spread: float
    """Standard deviation of the logarithm of their sizes."""
    aspect: float
    dent: float = 0.05
    lean: float = 9.0
    """How far they stray from pointing outwards, in radians; 9 is any way."""
    rows: float | None = None
    """Half the distance of the two rows around the lumen; None when heaped without order."""
    lumens: int = 1
    """Hollows that share the same area: one lumen, or many small vacuoles."""
    hollow_aspect: float = 1.2


GLANDS = {
    "normal": Gland(nuclei=13, spread=0.06, aspect=1.15, lean=0.5, rows=0.0, hollow_aspect=1.1),
    "inflammation": Gland(nuclei=30, spread=0.08, aspect=1.05, lumens=7),
    "adenoma": Gland(nuclei=16, spread=0.06, aspect=2.3, lean=0.12, rows=0.04),
    "carcinoma": Gland(nuclei=6, spread=0.3, aspect=1.5, dent=0.1, lumens=2, hollow_aspect=6.0),
}


def draw(rng: np.random.Generator, canvas: Canvas, finding: str) -> Drawing:
    """Return a tile; a diseased one has a focus in which the glands have changed."""
    focus_YX = _focus(rng, canvas)
    ill_YX = (focus_YX < 1) & (finding != "normal")
    cells, holes = _tissue(rng, canvas, ill_YX, finding)
    nuclei_YX = stamp(canvas.px, cells)
    lumen_YX = stamp(canvas.px, holes, 2.0)
    return Drawing(picture=_stain(rng, canvas, nuclei_YX, lumen_YX), mask=ill_YX)


def _focus(rng: np.random.Generator, canvas: Canvas) -> Field:
    centre_D = rng.uniform(-0.35, 0.35, 2)
    return blob(rng, canvas, centre_D, rng.uniform(1.15, 1.7), 0.12, 3)


def _tissue(
    rng: np.random.Generator, canvas: Canvas, ill_YX: NDArray[np.bool_], finding: str
) -> tuple[Spots, Spots]:
    """Return nuclei and lumens of glands on a jittered, turned lattice."""
    centre_GD = _lattice(rng, 0.95 * canvas.zoom)
    y_G, x_G = np.clip(((centre_GD + 1) * canvas.px / 2).astype(int), 0, canvas.px - 1).T
    ill_G = ill_YX[y_G, x_G]
    kinds = (("normal", centre_GD[~ill_G]), (finding, centre_GD[ill_G]))
    nuclei = join([_nuclei(rng, some_GD, GLANDS[kind], canvas.zoom) for kind, some_GD in kinds])
    lumens = join([_lumens(rng, some_GD, GLANDS[kind], canvas.zoom) for kind, some_GD in kinds])
    dense, hollow = np.exp(rng.normal(0, (0.1, 0.2)))  # any tissue may be fuller than another
    return replace(nuclei, size=nuclei.size * dense), replace(lumens, size=lumens.size * hollow)


def _lattice(rng: np.random.Generator, step: float) -> Field:
    line = np.arange(-3, 4) * step
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    points += rng.normal(0, 0.09 * step, points.shape) + rng.uniform(-step / 2, step / 2, 2)
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = points @ turn
    return np.asarray(points[np.all(np.abs(points) < 1.4, axis=1)], np.float32)


def _nuclei(rng: np.random.Generator, centre_GD: Field, gland: Gland, zoom: float) -> Spots:
    """Return the nuclei of all these glands, of the same area in each."""
    shape = (len(centre_GD), gland.nuclei)
    away_GN, angle_GN = _set(rng, shape, gland)
    offset_GND = np.stack([away_GN * np.cos(angle_GN), away_GN * np.sin(angle_GN)], axis=2)
    size_GN = np.exp(np.clip(rng.normal(0, gland.spread, shape), -0.6, 0.5))
    size_GN *= np.sqrt(INK / np.sum(size_GN**2, axis=1, keepdims=True))
    return Spots(
        centre=(centre_GD[:, None] + zoom * offset_GND).reshape(-1, 2),
        size=zoom * size_GN.ravel(),
        aspect=gland.aspect * np.exp(rng.normal(0, 0.08, size_GN.size)),
        angle=(angle_GN + rng.normal(0, gland.lean, shape)).ravel(),
        dent=gland.dent * rng.uniform(0, 2, size_GN.size),
        weight=rng.uniform(0.75, 1, size_GN.size),
    )


def _set(rng: np.random.Generator, shape: tuple[int, int], gland: Gland) -> tuple[Field, Field]:
    """Return how far from the centre each nucleus lies, and in which direction."""
    if gland.rows is None:
        return 0.53 * np.sqrt(rng.uniform(0.05, 1, shape)), rng.uniform(0, 2 * math.pi, shape)
    order_N = np.arange(gland.nuclei)
    turn_GN = order_N / gland.nuclei + rng.uniform(size=(shape[0], 1))
    away_GN = 0.365 + gland.rows * np.where(order_N % 2, 1, -1) + rng.normal(0, 0.018, shape)
    return away_GN, 2 * math.pi * turn_GN + rng.normal(0, 0.1, shape)


def _lumens(rng: np.random.Generator, centre_GD: Field, gland: Gland, zoom: float) -> Spots:
    """Return the hollows of all these glands; one lies in the middle, several lie about."""
    astray = 0.03 if gland.lumens == 1 else 0.28
    centre_ND = np.repeat(centre_GD, gland.lumens, axis=0)
    count = len(centre_ND)
    return Spots(
        centre=centre_ND + zoom * rng.normal(0, astray, centre_ND.shape),
        size=zoom * np.sqrt(HOLLOW / gland.lumens) * np.exp(rng.normal(0, 0.15, count)),
        aspect=gland.hollow_aspect * np.exp(rng.normal(0, 0.1, count)),
        angle=rng.uniform(0, math.pi, count),
        dent=rng.uniform(0, 0.12, count),
        weight=np.ones(count),
    )


def _stain(rng: np.random.Generator, canvas: Canvas, nuclei_YX: Field, lumen_YX: Field) -> Field:
    """Return (3, Y, X): light that two dyes let through (Beer-Lambert)."""
    strands = fibres(rng, canvas, rng.uniform(5, 9), rng.uniform(0, math.pi))
    patchy = smooth_field(rng, canvas, 5)
    body = (0.75 + 0.08 * strands + 0.08 * patchy) * (1 - lumen_YX)
    dye_H = rng.uniform(0.9, 1.1) * (nuclei_YX * (1 - 0.2 * lumen_YX) + 0.06)
    dye_E = rng.uniform(0.75, 0.95) * np.clip(body, 0.02, None) * (1 - 0.5 * nuclei_YX)
    density = HAEMATOXYLIN[:, None, None] * dye_H + EOSIN[:, None, None] * dye_E
    return np.asarray(0.97 * np.exp(-density), np.float32)
