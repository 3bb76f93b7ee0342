"""Chance alone: draws how each image of a batch shall be varied, before any voxel is touched.

Shapes: B images, C channels, D axes of space; where 3 stands, along Z, Y, X or over three stains.
"""

# ruff: noqa: N815 - fields carry their shapes, as all tensors do.

import math
from dataclasses import dataclass

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


# Every quantity has its columns whether a preset uses it or not: changing one range then leaves
# all other draws of a seed as they were.
_COLUMNS = {
    "area": 1, "aspect": 1, "angle": 1, "quarters": 1, "tilt": 2, "place": 3, "translation": 3,
    "flips": 3, "brightness": 1, "contrast": 1, "gamma": 1, "has_gamma": 1, "field": 3,
    "inverted": 1, "saturation": 1, "hue": 1, "stain_scale": 3, "stain_shift": 3, "sigma": 1,
    "has_blur": 1, "noise": 1, "has_noise": 1,
}  # fmt: skip


def draw(ranges: Ranges, batch: int, channels: int, generator: torch.Generator) -> Draws:
    """Draw for *batch* images of *channels* channels, each image independently of the others."""
    sizes = [*_COLUMNS.values(), channels]
    table_BK = torch.rand(batch, sum(sizes), generator=generator)
    chance = dict(zip([*_COLUMNS, "gain"], torch.split(table_BK, sizes, dim=1), strict=True))
    seed = int(torch.randint(2**62, (), generator=generator))
    return Draws(**_geometry(ranges, chance), **_intensity(ranges, chance), noise_seed=seed)


def _geometry(ranges: Ranges, chance: dict[str, Tensor]) -> dict[str, Tensor]:
    turn, tilt = math.radians(ranges.rotation_degrees), math.radians(ranges.tilt_degrees)
    return {
        "area_B": _between(chance["area"][:, 0], ranges.area),
        "aspect_B": _between(chance["aspect"][:, 0], _logarithms(ranges.aspect)).exp(),
        "angle_B": _around(chance["angle"][:, 0], turn),
        "quarters_B": (chance["quarters"][:, 0] * (4 if ranges.quarter_turns else 0)).floor(),
        "tilt_B2": _around(chance["tilt"], tilt),
        "place_B3": _around(chance["place"], 1.0),
        "translation_B3": _around(chance["translation"], ranges.translation),
        "flips_B3": chance["flips"] < torch.tensor(ranges.flips),
    }


def _intensity(ranges: Ranges, chance: dict[str, Tensor]) -> dict[str, Tensor]:
    gamma_B = _between(chance["gamma"][:, 0], ranges.gamma)
    sigma_B = _between(chance["sigma"][:, 0], ranges.blur_sigma)
    noise_B = _between(chance["noise"][:, 0], ranges.noise_std)
    return {
        "brightness_B": _around(chance["brightness"][:, 0], ranges.brightness),
        "contrast_B": _between(chance["contrast"][:, 0], ranges.contrast),
        "gamma_B": gamma_B.where(chance["has_gamma"][:, 0] < ranges.gamma_probability, 1.0),
        "gain_BC": _between(chance["gain"], ranges.channel_gain),
        "field_B3": _around(chance["field"], ranges.bias_field),
        "inverted_B": chance["inverted"][:, 0] < ranges.inversion_probability,
        "saturation_B": _between(chance["saturation"][:, 0], ranges.saturation),
        "hue_B": _around(chance["hue"][:, 0], math.tau * ranges.hue_turns),
        "stain_scale_B3": 1 + _around(chance["stain_scale"], ranges.stain_scale),
        "stain_shift_B3": _around(chance["stain_shift"], ranges.stain_shift),
        "sigma_B": sigma_B.where(chance["has_blur"][:, 0] < ranges.blur_probability, 0.0),
        "noise_B": noise_B.where(chance["has_noise"][:, 0] < ranges.noise_probability, 0.0),
    }


def _between(chance: Tensor, span: tuple[float, float]) -> Tensor:
    return chance * (span[1] - span[0]) + span[0]


def _around(chance: Tensor, most: float) -> Tensor:
    return (2 * chance - 1) * most


def _logarithms(span: tuple[float, float]) -> tuple[float, float]:
    return math.log(span[0]), math.log(span[1])
