"""Draws an abdomen, flat or in 3-D; the disease is in a lesion's rim, border and texture."""

import numpy as np
from numpy.typing import NDArray

from confrere_client.phantom.anatomy import (
    Canvas,
    Drawing,
    Field,
    blob,
    inside,
    place,
    radius,
    smooth_field,
)

CLASSES = {"normal": 0.30, "cyst": 0.28, "abscess": 0.22, "tumour": 0.20}
"""How often each class is seen where no site differs."""

CHANNELS = 1


def draw(rng: np.random.Generator, canvas: Canvas, finding: str) -> Drawing:
    """Return an abdomen; a diseased one has one to three lesions in the liver."""
    body_DZYX = _posed(rng, canvas)
    liver_ZYX = _organ(rng, body_DZYX, (-0.04, -0.30), (0.85, 0.56, 0.46))
    scan = _abdomen(rng, canvas, body_DZYX, liver_ZYX)
    ill_ZYX = liver_ZYX > 2
    if finding != "normal":
        for _ in range(int(rng.integers(1, 4))):
            scan, here_ZYX = _lesion(rng, canvas, finding, scan, liver_ZYX)
            ill_ZYX |= here_ZYX
    return Drawing(picture=np.clip(scan, 0, 1)[None].astype(np.float32), mask=ill_ZYX)


def _posed(rng: np.random.Generator, canvas: Canvas) -> Field:
    size_D = canvas.zoom * np.exp(rng.normal(0, 0.05, canvas.dims))
    return place(canvas.grid, rng.normal(0, 0.06, canvas.dims), size_D, rng.normal(0, 0.2))


def _organ(
    rng: np.random.Generator, body_DZYX: Field, at: tuple[float, float], size: tuple[float, ...]
) -> Field:
    """Return an ellipsoid with soft edges; *at* is y x, *size* is z y x; the plane shows z = 0."""
    dims = len(body_DZYX)
    centre_D = np.array([0.0, *at])[-dims:] + rng.normal(0, 0.03, dims)
    size_D = np.array(size)[-dims:] * np.exp(rng.normal(0, 0.05, dims))
    return inside(radius(place(body_DZYX, centre_D, size_D, rng.normal(0, 0.15))), 0.08)


def _abdomen(rng: np.random.Generator, canvas: Canvas, body_DZYX: Field, liver: Field) -> Field:
    parts = (
        (_organ(rng, body_DZYX, (0.0, 0.0), (9.0, 0.80, 0.95)), 0.28),  # fat
        (_organ(rng, body_DZYX, (0.02, 0.0), (9.0, 0.72, 0.86)), 0.40),  # gut
        (liver, 0.52),
        (_organ(rng, body_DZYX, (0.10, 0.55), (0.4, 0.28, 0.20)), 0.55),  # spleen
        (_organ(rng, body_DZYX, (0.33, 0.12), (9.0, 0.10, 0.10)), 0.66),  # aorta
        (_organ(rng, body_DZYX, (0.56, 0.0), (9.0, 0.15, 0.17)), 0.85),  # vertebra
    )
    scan = np.zeros_like(liver)
    for cover, level in parts:
        scan = scan + cover * (level - scan)
    scan += 0.04 * smooth_field(rng, canvas, 7) * (scan > 0.2)
    vessel = np.exp(-((smooth_field(rng, canvas, 5) / 0.2) ** 2))
    return np.asarray(scan + 0.07 * vessel * liver, np.float32)


def _lesion(
    rng: np.random.Generator, canvas: Canvas, finding: str, scan: Field, liver: Field
) -> tuple[Field, NDArray[np.bool_]]:
    """Return the scan with one lesion of about the same mean density whatever its kind."""
    where = np.argwhere(liver > 0.9)
    centre_D = (where[int(rng.integers(len(where)))] + 0.5) * (2 / canvas.px) - 1
    rough, cells = (0.3, 10) if finding == "tumour" else (0.05, 4)
    distance = blob(rng, canvas, centre_D, canvas.zoom * rng.uniform(0.22, 0.34), rough, cells)
    cover = inside(distance, 0.25) * liver
    level = _inner(rng, canvas, finding, distance)
    return np.asarray(scan + cover * (level - scan), np.float32), (distance < 1) & (liver > 0.5)


def _inner(rng: np.random.Generator, canvas: Canvas, finding: str, distance: Field) -> Field:
    """Return the density within: even, ringed, or patchy."""
    mean = 0.40 + rng.normal(0, 0.04)
    if finding == "cyst":
        return np.full_like(distance, mean)
    if finding == "abscess":
        rim = np.exp(-(((distance - 0.85) / 0.2) ** 2))
        return np.asarray(mean - 0.10 + 0.34 * rim, np.float32)
    return np.asarray(mean + 0.05 + 0.17 * smooth_field(rng, canvas, 14), np.float32)
