"""Chance alone: draws how each image of a batch shall be varied, before any voxel is touched.

Shapes: B images, C channels, D axes of space; where 3 stands, along Z, Y, X or over three stains.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from confrere_common.augment.presets import Ranges


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn for each image of a batch, on the CPU; the names are those of ``Ranges``."""

    area_B: Tensor
    aspect_B: Tensor
    angle_B: Tensor
    """Turn in the plane, radians."""
    quarters_B: Tensor
    """Turns of 90 degrees, 0 to 3."""
    tilt_B2: Tensor
    """Turns about the X axis and the Y axis, radians."""
    place_B3: Tensor
    """Where the shown part lies: -1 at the low edge, 1 at the high edge, along Z, Y, X."""
    translation_B3: Tensor
    flips_B3: Tensor
    """Whether to mirror, along Z, Y, X."""
    brightness_B: Tensor
    contrast_B: Tensor
    gamma_B: Tensor
    """1 where none was chosen."""
    gain_BC: Tensor
    field_B3: Tensor
    inverted_B: Tensor
    saturation_B: Tensor
    hue_B: Tensor
    """Turn of the colour circle, radians."""
    stain_scale_B3: Tensor
    stain_shift_B3: Tensor
    sigma_B: Tensor
    """Width of the blur as a fraction of the smaller side; 0 where none was chosen."""
    noise_B: Tensor
    """Standard deviation of the noise; 0 where none was chosen."""
    noise_seed: int
    """Where the noise itself comes from."""


Limits = dict[str, tuple[float, float]]


def draw(ranges: Ranges, batch: int, channels: int, generator: torch.Generator) -> Draws:
    """Draw for *batch* images of *channels* channels, each image independently of the others."""
    low_K, span_K, sizes = _limits(ranges, channels)
    table_BK = torch.rand(batch, len(low_K), generator=generator).mul_(span_K).add_(low_K)
    columns = torch.split(table_BK, list(sizes.values()), dim=1)
    drawn = {
        name: column if sizes[name] > 1 or name == "gain" else column[:, 0]
        for name, column in zip(sizes, columns, strict=True)
    }
    seed = int(torch.randint(2**62, (), generator=generator))
    return Draws(**_geometry(ranges, drawn), **_intensity(ranges, drawn), noise_seed=seed)


# Every quantity has its columns whether a preset uses it or not: changing one range then leaves
# all other draws of a seed as they were.
@lru_cache(maxsize=64)
def _limits(ranges: Ranges, channels: int) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Return the least and the span of each column, and how many columns each quantity has."""
    limits = {**_one_column(ranges), **_three_columns(ranges), "gain": ranges.channel_gain}
    sizes = {
        **dict.fromkeys(_one_column(ranges), 1),
        **dict.fromkeys(_three_columns(ranges), 3),
        "gain": channels,
    }
    low_K = torch.tensor([limits[name][0] for name in limits for _ in range(sizes[name])])
    high_K = torch.tensor([limits[name][1] for name in limits for _ in range(sizes[name])])
    return low_K, high_K - low_K, sizes


def _one_column(ranges: Ranges) -> Limits:
    return {
        "area": ranges.area,
        "log_aspect": (math.log(ranges.aspect[0]), math.log(ranges.aspect[1])),
        "angle": _around(0, math.radians(ranges.rotation_degrees)),
        "quarters": (0, 4 if ranges.quarter_turns else 0),
        "brightness": _around(0, ranges.brightness),
        "contrast": ranges.contrast,
        "gamma": ranges.gamma,
        "gamma_chance": (0, 1),
        "inversion_chance": (0, 1),
        "saturation": ranges.saturation,
        "hue": _around(0, math.tau * ranges.hue_turns),
        "sigma": ranges.blur_sigma,
        "blur_chance": (0, 1),
        "noise": ranges.noise_std,
        "noise_chance": (0, 1),
    }


def _three_columns(ranges: Ranges) -> Limits:
    return {
        "tilt": _around(0, math.radians(ranges.tilt_degrees)),
        "place": (-1, 1),
        "translation": _around(0, ranges.translation),
        "flip_chance": (0, 1),
        "field": _around(0, ranges.bias_field),
        "stain_scale": _around(1, ranges.stain_scale),
        "stain_shift": _around(0, ranges.stain_shift),
    }


def _geometry(ranges: Ranges, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "area_B": drawn["area"],
        "aspect_B": drawn["log_aspect"].exp(),
        "angle_B": drawn["angle"],
        "quarters_B": drawn["quarters"].floor(),
        "tilt_B2": drawn["tilt"][:, :2],
        "place_B3": drawn["place"],
        "translation_B3": drawn["translation"],
        "flips_B3": drawn["flip_chance"] < torch.tensor(ranges.flips),
    }


def _intensity(ranges: Ranges, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    has_gamma_B = drawn["gamma_chance"] < ranges.gamma_probability
    has_blur_B = drawn["blur_chance"] < ranges.blur_probability
    has_noise_B = drawn["noise_chance"] < ranges.noise_probability
    return {
        "brightness_B": drawn["brightness"],
        "contrast_B": drawn["contrast"],
        "gamma_B": drawn["gamma"].where(has_gamma_B, 1.0),
        "gain_BC": drawn["gain"],
        "field_B3": drawn["field"],
        "inverted_B": drawn["inversion_chance"] < ranges.inversion_probability,
        "saturation_B": drawn["saturation"],
        "hue_B": drawn["hue"],
        "stain_scale_B3": drawn["stain_scale"],
        "stain_shift_B3": drawn["stain_shift"],
        "sigma_B": drawn["sigma"].where(has_blur_B, 0.0),
        "noise_B": drawn["noise"].where(has_noise_B, 0.0),
    }


def _around(middle: float, most: float) -> tuple[float, float]:
    return middle - most, middle + most
