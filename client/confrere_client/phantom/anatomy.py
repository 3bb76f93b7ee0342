"""Draws what every modality is made of: soft shapes, textures, blur; vectorised, in 2-D and 3-D.

Space runs from -1 to 1 along each axis whatever the image's size, so that a larger image shows
the same anatomy more finely. Shapes: D axes, [Z] Y X voxels (Z only in 3-D), N objects.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An image before any camera saw it, and where its lesions are."""

    picture: Field
    """(C, [Z], Y, X), from 0 to 1."""

    mask: NDArray[np.bool_]
    """([Z], Y, X), true in a lesion."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What an image is drawn on."""

    px: int
    """Voxels along each axis."""

    dims: int
    """2 or 3 axes."""

    zoom: float
    """Magnification: a patient's build, or the lens."""

    @property
    def grid(self) -> Field:
        """Return (D, [Z], Y, X): the coordinates of each voxel centre, [z] y x."""
        return _grid(self.px, self.dims)


@lru_cache(maxsize=8)
def _grid(px: int, dims: int) -> Field:
    line = (np.arange(px, dtype=np.float32) + 0.5) * (2 / px) - 1
    grid = np.stack(np.meshgrid(*[line] * dims, indexing="ij"))
    grid.flags.writeable = False
    return grid


def place(points_DZYX: Field, centre_D: Field, size_D: Field, angle: float) -> Field:
    """Return *points* as seen from a shape: moved to its centre, turned in the plane, scaled."""
    moved = points_DZYX - _lift(centre_D, points_DZYX)
    y, x = moved[-2].copy(), moved[-1].copy()
    moved[-2] = math.cos(angle) * y - math.sin(angle) * x
    moved[-1] = math.sin(angle) * y + math.cos(angle) * x
    return moved / _lift(size_D, moved)


def _lift(vector_D: Field, like_DZYX: Field) -> Field:
    return np.asarray(vector_D, np.float32).reshape((-1,) + (1,) * (like_DZYX.ndim - 1))


def radius(points_DZYX: Field) -> Field:
    """Return each point's distance from the origin."""
    root: Field = np.sqrt(np.einsum("d...,d...->...", points_DZYX, points_DZYX))
    return root


def inside(distance: Field, softness: float) -> Field:
    """Return 1 where *distance* is below 1, 0 beyond, and a ramp of *softness* between."""
    ramp: Field = np.clip((1 - distance) / softness + 0.5, 0, 1)
    return ramp


def smooth_field(rng: np.random.Generator, canvas: Canvas, cells: int) -> Field:
    """Return a random field of mean 0 and variance about 1 with *cells* bumps along each axis."""
    coarse = rng.standard_normal((cells + 3,) * canvas.dims, dtype=np.float32)
    return _along_axes(_spline(canvas.px, cells), coarse, canvas.dims) / 0.69**canvas.dims


@lru_cache(maxsize=64)
def _spline(px: int, cells: int) -> Field:
    """Return the cubic B-spline weights (px, cells + 3) that interpolate a coarse line."""
    at = (np.arange(px)[:, None] + 0.5) * (cells / px) - np.arange(-1, cells + 2)[None, :]
    near, far = np.abs(at), np.clip(2 - np.abs(at), 0, None)
    weights = np.where(near < 1, 2 / 3 - near**2 + near**3 / 2, far**3 / 6)
    return np.asarray(weights, np.float32)


def blur(image_CZYX: Field, sigma_px: float, dims: int) -> Field:
    """Return the image blurred by a Gaussian; the border is not darkened."""
    if sigma_px < 0.2:  # narrower than a voxel feels
        return image_CZYX
    return _along_axes(_gauss(image_CZYX.shape[-1], round(sigma_px, 1)), image_CZYX, dims)


@lru_cache(maxsize=64)
def _gauss(px: int, sigma_px: float) -> Field:
    line = np.arange(px, dtype=np.float32)
    weights = np.exp(-0.5 * ((line[:, None] - line) / sigma_px) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _along_axes(matrix: Field, image: Field, dims: int) -> Field:
    """Apply one matrix along each of the last *dims* axes."""
    for axis in range(-dims, 0):
        image = np.moveaxis(np.moveaxis(image, axis, -1) @ matrix.T, -1, axis)
    return image


def fibres(rng: np.random.Generator, canvas: Canvas, waves: float, angle: float) -> Field:
    """Return wavy strands, -1 to 1, *waves* of them across the image."""
    along = math.cos(angle) * canvas.grid[-2] + math.sin(angle) * canvas.grid[-1]
    phase = math.pi * waves * along + 1.6 * smooth_field(rng, canvas, 4)
    return np.asarray(np.sin(phase + rng.uniform(0, 2 * math.pi)), np.float32)


def blob(
    rng: np.random.Generator, canvas: Canvas, centre_D: Field, size: float, rough: float, cells: int
) -> Field:
    """Return a distance that is below 1 within a lump of *size*, and 0 at its centre.

    *rough* is how far the border strays, *cells* how finely; orientation and aspect are random.
    """
    aspect = np.exp(rng.normal(0, 0.12, canvas.dims)).astype(np.float32)
    points = place(canvas.grid, centre_D, size * aspect, rng.uniform(0, math.pi))
    strays = np.clip(smooth_field(rng, canvas, cells), -2.5, 2.5)
    return np.asarray(radius(points) * (1 + rough * strays), np.float32)


@dataclass(frozen=True, kw_only=True)
class Spots:
    """Many small ellipses; each field has N entries, and *centre* is (N, D)."""

    centre: Field
    size: Field
    """Radius of the circle of the same area."""
    aspect: Field
    """Length over width."""
    angle: Field
    dent: Field
    """How far the outline strays from an ellipse, as a part of its radius."""
    weight: Field
    """How dark each is."""


def join(parts: list[Spots]) -> Spots:
    """Return all spots as one."""
    names = Spots.__dataclass_fields__
    return Spots(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def stamp(px: int, spots: Spots, softness_px: float = 1.2) -> Field:
    """Return (Y, X) with every spot stamped on it, the darkest winning where two overlap."""
    at_ND = (spots.centre + 1) * (px / 2) - 0.5
    longest_N = spots.size * np.sqrt(spots.aspect) * (px / 2)
    reach = math.ceil(float(np.max(longest_N, initial=0)) * 1.2 + 1)
    seen = np.all((at_ND > -reach) & (at_ND < px - 1 + reach), axis=1)
    corner_ND = np.floor(at_ND[seen]).astype(np.int64)
    offset_K = np.arange(-reach, reach + 2)
    within_NDK = offset_K - (at_ND[seen] - corner_ND)[:, :, None]
    ink_NKK = _ink(within_NDK * (2 / px), spots, seen, softness_px * 2 / px)
    margin = 2 * reach + 2
    sheet = np.zeros((px + 2 * margin,) * 2, np.float32)
    for (y, x), ink_KK in zip((corner_ND + margin).tolist(), ink_NKK, strict=True):
        here = sheet[y - reach : y + reach + 2, x - reach : x + reach + 2]
        np.maximum(here, ink_KK, out=here)  # 5 times faster than np.maximum.at over all
    return sheet[margin:-margin, margin:-margin]


def _ink(within_NDK: Field, spots: Spots, seen: NDArray[np.bool_], softness: float) -> Field:
    """Return (N, K, K): how dark each spot is at each place of a square around it."""
    size, weight, dent = (
        values[seen, None, None].astype(np.float32)
        for values in (spots.size, spots.weight, spots.dent)
    )
    along, cross = _turned(within_NDK.astype(np.float32), spots, seen)
    square = along * along
    cosine = square * 4
    square += cross * cross + np.float32(1e-9)
    cosine /= square
    cosine -= 3
    cosine *= along
    cosine *= dent  # dent r cos(3 t) = dent x (4 x^2 / r^2 - 3) bends an ellipse three-fold
    cosine += np.sqrt(square)
    ink_NKK = (size - cosine) * np.float32(1 / softness)
    ink_NKK += np.float32(0.5)
    return np.asarray(np.clip(ink_NKK, 0, 1, out=ink_NKK) * weight, np.float32)


def _turned(
    within_NDK: Field, spots: Spots, seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (N, K, K) twice: places along and across each ellipse, as if it were a circle."""
    angle, stretch = spots.angle[seen, None], np.sqrt(spots.aspect[seen, None])
    cos, sin = np.cos(angle), np.sin(angle)
    y_NK, x_NK = within_NDK[:, 0], within_NDK[:, 1]
    along = (cos / stretch * y_NK)[:, :, None], (sin / stretch * x_NK)[:, None, :]
    cross = (-sin * stretch * y_NK)[:, :, None], (cos * stretch * x_NK)[:, None, :]
    return np.add(*along, dtype=np.float32), np.add(*cross, dtype=np.float32)
