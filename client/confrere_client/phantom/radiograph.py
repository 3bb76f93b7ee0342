"""Draws a chest film: lungs, ribs, spine, heart; the disease is in the pattern of the opacities."""

import math

import numpy as np
from numpy.typing import NDArray

from confrere_client.phantom.anatomy import (
    Canvas,
    Drawing,
    Field,
    Spots,
    blob,
    inside,
    place,
    radius,
    smooth_field,
    stamp,
)

CLASSES = {"normal": 0.36, "consolidation": 0.26, "nodules": 0.20, "fibrosis": 0.18}
"""How often each class is seen where no site differs."""

CHANNELS = 1

LUNGS = ((0.0, -0.46), (0.0, 0.46))


def draw(rng: np.random.Generator, canvas: Canvas, finding: str) -> Drawing:
    """Return a film; a diseased one has an opacity somewhere in a lung."""
    body_DYX = _posed(rng, canvas)
    lung_YX = _lungs(rng, body_DYX)
    opacity_YX, ill_YX = _opacity(rng, canvas, finding, lung_YX)
    ill_YX &= lung_YX > 0.5
    film = _thorax(rng, canvas, body_DYX, lung_YX) + opacity_YX * lung_YX
    return Drawing(picture=np.clip(film, 0, 1)[None].astype(np.float32), mask=ill_YX)


def _posed(rng: np.random.Generator, canvas: Canvas) -> Field:
    """Return the body's own coordinates: patients stand askew, off centre, and differ in size."""
    size_D = canvas.zoom * np.exp(rng.normal(0, 0.06, 2))
    return place(canvas.grid, rng.normal(0, 0.07, 2), size_D, rng.normal(0, 0.1))


def _lungs(rng: np.random.Generator, body_DYX: Field) -> Field:
    size_D = np.array([0.78, 0.36]) * np.exp(rng.normal(0, 0.06, 2))
    lobes = [radius(place(body_DYX, np.array(at), size_D, 0.12 * at[1])) for at in LUNGS]
    return inside(np.minimum(*lobes), 0.15)


def _thorax(rng: np.random.Generator, canvas: Canvas, body_DYX: Field, lung_YX: Field) -> Field:
    y, x = body_DYX
    torso = inside(np.abs(x) / 0.98, 0.12)
    heart = inside(radius(place(body_DYX, np.array([0.3, 0.13]), np.array([0.38, 0.3]), 0.5)), 0.2)
    spine = np.exp(-((x / 0.09) ** 2)) * (1 + 0.2 * np.sin(26 * y + rng.uniform(0, 6)))
    curve = (y + 0.35 * x**2) * rng.uniform(17, 21) + rng.uniform(0, 2 * math.pi)
    ribs = np.clip(np.sin(curve), 0, 1) ** 2 * inside(np.abs(x) / 0.85, 0.1)
    soft = 0.05 * smooth_field(rng, canvas, 2) + 0.035 * smooth_field(rng, canvas, 6)
    film = 0.12 + 0.46 * torso - 0.36 * lung_YX + 0.10 * spine + 0.22 * heart + 0.07 * ribs
    return np.asarray(film + soft + _vessels(rng, canvas) * lung_YX, np.float32)


def _vessels(rng: np.random.Generator, canvas: Canvas) -> Field:
    """Return faint branching lines, which every lung has."""
    field = smooth_field(rng, canvas, 5)
    return np.asarray(0.05 * np.exp(-((field / 0.25) ** 2)), np.float32)


def _opacity(
    rng: np.random.Generator, canvas: Canvas, finding: str, lung_YX: Field
) -> tuple[Field, NDArray[np.bool_]]:
    """Return how much brighter the disease makes the film, and where."""
    flat = np.zeros(lung_YX.shape, np.float32)
    if finding == "normal":
        return flat, flat > 1
    make = {"consolidation": _consolidation, "nodules": _nodules, "fibrosis": _fibrosis}[finding]
    zone = _zone(rng, canvas, lung_YX > 0.9)
    if finding == "nodules":
        zone = np.where(lung_YX > 0.9, zone, np.inf)  # each of them lies in the lung
    opacity, ill = make(rng, canvas, zone)
    return opacity * rng.uniform(0.8, 1.25), ill


def _zone(rng: np.random.Generator, canvas: Canvas, lung_YX: NDArray[np.bool_]) -> Field:
    """Return the distance from a random place in a lung; it is below 1 within the zone."""
    centre_D = _somewhere(rng, canvas, lung_YX, 1)[0]
    return blob(rng, canvas, centre_D, rng.uniform(0.48, 0.68), 0.18, 5)


def _somewhere(
    rng: np.random.Generator, canvas: Canvas, allowed_YX: NDArray[np.bool_], count: int
) -> Field:
    """Return *count* random places (N, D) among the allowed."""
    where = np.argwhere(allowed_YX)
    return np.asarray((where[rng.integers(len(where), size=count)] + 0.5) * (2 / canvas.px) - 1)


def _consolidation(
    rng: np.random.Generator, canvas: Canvas, zone: Field
) -> tuple[Field, NDArray[np.bool_]]:
    cloud = 1 + 0.25 * smooth_field(rng, canvas, 9)
    return np.asarray(0.26 * inside(zone, 0.5) * cloud, np.float32), zone < 1


def _nodules(
    rng: np.random.Generator, canvas: Canvas, zone: Field
) -> tuple[Field, NDArray[np.bool_]]:
    count = int(rng.integers(10, 17))
    none = np.zeros(count)
    spots = Spots(
        centre=_somewhere(rng, canvas, zone < 1, count),
        size=rng.uniform(0.07, 0.11, count),
        aspect=1 + none,
        angle=none,
        dent=none,
        weight=rng.uniform(0.8, 1, count),
    )
    dots = stamp(canvas.px, spots, 1.5)
    return 0.34 * dots, dots > 0.3


def _fibrosis(
    rng: np.random.Generator, canvas: Canvas, zone: Field
) -> tuple[Field, NDArray[np.bool_]]:
    one, two = smooth_field(rng, canvas, 13), smooth_field(rng, canvas, 13)
    net = np.exp(-((one / 0.3) ** 2)) + np.exp(-((two / 0.3) ** 2))
    return np.asarray(0.34 * np.clip(net, 0, 1) * inside(zone, 0.4), np.float32), zone < 1
