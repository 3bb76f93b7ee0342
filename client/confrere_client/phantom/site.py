"""How a site's machines look at patients: contrast, noise, blur, colour, vignette, prevalence.

Shapes: C channels, [Z] Y X voxels (Z only in 3-D), K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confrere_client.phantom.anatomy import Canvas, Field, blur, radius


@dataclass(frozen=True, kw_only=True)
class Look:
    """One way to take a picture. Looks add up: a site's, a patient's, an image's."""

    light: float = 0.0
    """Added brightness."""

    contrast: float = 0.0
    """Logarithm of the contrast."""

    gamma: float = 0.0
    """Logarithm of the exponent."""

    cast: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Logarithm of the gain of each colour; a grey image takes none."""

    vignette: float = 0.0
    """How much darker the corners are."""

    blur: float = 0.0
    """Gaussian sigma, in 64ths of the image; below 0 is none."""

    noise: float = 0.0
    """Standard deviation of white noise; below 0 is none."""

    grain: float = 0.0
    """The same for noise that grows with brightness, as speckle and photons do."""

    def __add__(self, other: "Look") -> "Look":
        """Return both, one after the other."""
        mine, theirs = vars(self), vars(other)
        cast = tuple(a + b for a, b in zip(self.cast, other.cast, strict=True))
        plain = {name: mine[name] + theirs[name] for name in mine if name != "cast"}
        return Look(**plain, cast=cast)


USUAL = Look(blur=0.35, noise=0.012, grain=0.01)
"""What every machine does."""


def site_looks(rng: np.random.Generator, sites: int, shift: float) -> tuple[Look, ...]:
    """Return the look of each site; they are spread evenly apart, and equal when *shift* is 0."""
    levels = np.stack([_levels(rng, sites) for _ in range(10)]) * shift
    return tuple(USUAL + _shifted(*map(float, level)) for level in levels.T)


def _shifted(*level: float) -> Look:
    light, contrast, gamma, red, green, blue, vignette, unsharp, noise, grain = level
    return Look(
        light=0.06 * light,
        contrast=0.2 * contrast,
        gamma=0.2 * gamma,
        cast=(0.08 * red, 0.08 * green, 0.08 * blue),
        vignette=0.25 * max(vignette, 0.0),
        blur=0.2 * max(unsharp, -0.8),
        noise=0.014 * max(noise, 0.0),
        grain=0.02 * max(grain, 0.0),
    )


def _levels(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return evenly spread values from -1 to 1 in random order; 0 for one alone."""
    return rng.permutation(np.linspace(-1, 1, count)) if count > 1 else np.zeros(1)


def site_prevalence(
    rng: np.random.Generator, usual: Sequence[float], sites: int, shift: float
) -> NDArray[np.float64]:
    """Return the parts (sites, K) that the classes have at each site, summing to 1 in a row."""
    tilt = np.stack([_levels(rng, sites) for _ in usual], axis=1)
    part = np.asarray(usual) * np.exp(0.6 * shift * tilt)
    return np.asarray(part / part.sum(axis=1, keepdims=True), np.float64)


def varied(rng: np.random.Generator, strength: float) -> Look:
    """Return a random look, as one patient or one exposure differs from the next."""
    draw = rng.normal(0, strength, 6)
    return Look(
        light=0.06 * draw[0],
        contrast=0.14 * draw[1],
        gamma=0.1 * draw[2],
        cast=tuple(0.07 * draw[3:6]),
        vignette=0.0,
        blur=0.1 * rng.normal(0, strength),
    )


def photograph(
    rng: np.random.Generator, canvas: Canvas, picture_CZYX: Field, look: Look
) -> NDArray[np.uint8]:
    """Return the picture as a machine of this *look* records it."""
    image = picture_CZYX
    if look.vignette:
        image = image * (1 - look.vignette * 0.5 * radius(canvas.grid[-2:]) ** 2)
    if len(image) == 3:
        gain = np.exp(np.asarray(look.cast, np.float32))
        image = image * gain.reshape((-1,) + (1,) * canvas.dims)
    image = (image - 0.5) * np.exp(look.contrast, dtype=np.float32) + 0.5 + look.light
    image = np.clip(image, 0.002, 1) ** np.exp(look.gamma, dtype=np.float32)
    image = blur(image, look.blur * canvas.px / 64, canvas.dims)
    image = image + _noise(rng, image, look)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), np.uint8)


def _noise(rng: np.random.Generator, image: Field, look: Look) -> Field:
    spread = max(look.noise, 0.0) + max(look.grain, 0.0) * image
    return rng.standard_normal(image.shape, dtype=np.float32) * spread
