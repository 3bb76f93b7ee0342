"""What may be varied in each kind of medical image, and what must stay as it is.

Fractions of brightness, noise and the like are of the full range of the stored type.
"""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from confrere_common.errors import unknown
from confrere_common.family import sentence
from confrere_common.section import section


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"a range is written [low, high]; {span[0]} is above {span[1]}")
    return span


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Natural = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Share = Annotated[float, Field(gt=0, le=1)]

Probability: TypeAlias = _Fraction
Factors: TypeAlias = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
Shares: TypeAlias = Annotated[tuple[_Share, _Share], AfterValidator(_ordered)]
Amounts: TypeAlias = Annotated[tuple[_Natural, _Natural], AfterValidator(_ordered)]


@section
class Ranges:
    """What may be drawn for a view; with these defaults a view is the image itself."""

    area: Shares = (1.0, 1.0)
    """Part of the image's area (3-D: volume) that a view shows, enlarged to the full size."""

    aspect: Factors = (1.0, 1.0)
    """How much wider than high the shown part may be, in units of the image's own shape."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn in the plane of Y and X, to either side."""

    tilt_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn out of that plane, to either side (3-D only)."""

    quarter_turns: bool = False
    """Whether to turn by 0, 90, 180 or 270 degrees as well (by 0 or 180 where Y and X differ)."""

    translation: _Fraction = 0.0
    """Largest shift along each axis beyond the image's edge, as a fraction of its size."""

    flips: tuple[Probability, Probability, Probability] = (0.0, 0.0, 0.0)
    """Probability of a mirror image along Z, Y and X (Z counts in 3-D only)."""

    outside: Literal["zeros", "border", "reflection"] = "zeros"
    """What is seen beyond the edge of an image."""

    brightness: _Fraction = 0.0
    """Largest shift of all intensities, up or down."""

    contrast: Factors = (1.0, 1.0)
    """Factor on each intensity's distance from the mean of the view."""

    gamma: Factors = (1.0, 1.0)
    """Exponent of all intensities."""

    gamma_probability: Probability = 0.0
    """How many of the views get it."""

    channel_gain: Factors = (1.0, 1.0)
    """Factor on each channel, drawn for each by itself."""

    bias_field: _Fraction = 0.0
    """Largest rise or fall, from centre to edge along each axis, of a field that multiplies all."""

    inversion_probability: Probability = 0.0
    """How many of the views swap dark and bright."""

    saturation: Factors = (1.0, 1.0)
    """Factor on the strength of colours (three channels only)."""

    hue_turns: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the colour circle, in full turns (three channels only)."""

    stain_scale: _Fraction = 0.0
    """Largest relative change of each stain's density (three channels only)."""

    stain_shift: _Fraction = 0.0
    """Largest addition to each stain's optical density (three channels only)."""

    blur_sigma: Amounts = (0.0, 0.0)
    """Width of a Gaussian blur as a fraction of the image's smaller side; at most 2 voxels work."""

    blur_probability: Probability = 0.0
    """How many of the views are blurred."""

    noise_std: Amounts = (0.0, 0.0)
    """Standard deviation of Gaussian noise on each voxel."""

    noise_probability: Probability = 0.0
    """How many of the views are noisy."""

    cavity_probability: Probability = 0.0
    """How many of the views have a simulated resection cut into them (augment.resection), as a
    brain has after surgery; what is cut away counts as background in masks. No preset does it."""


_SOFT_FOCUS: dict[str, Any] = {"blur_sigma": (0.0005, 0.009), "blur_probability": 0.2}

# An X-ray film is exposed, not coloured: gamma and contrast vary between machines. Its left and
# right are anatomy (the heart's side, a marker), so it is never mirrored, and it hangs upright.
_CXR = Ranges(
    area=(0.5, 1.0),
    aspect=(0.9, 1.1),
    rotation_degrees=7,
    brightness=0.1,
    contrast=(0.8, 1.25),
    gamma=(0.8, 1.25),
    gamma_probability=0.5,
    noise_std=(0.0, 0.03),
    noise_probability=0.2,
    **_SOFT_FOCUS,
)

# Hounsfield units are a physical scale: their order stays (no gamma, no inversion), they move
# only as far as calibration and windowing do. The liver is on the right: no mirror.
_CT = Ranges(
    area=(0.4, 1.0),
    aspect=(0.9, 1.1),
    rotation_degrees=10,
    tilt_degrees=10,
    brightness=0.02,
    contrast=(0.95, 1.05),
    noise_std=(0.0, 0.02),
    noise_probability=0.3,
    **_SOFT_FOCUS,
)

# Intensities of MRI have no unit: gamma, contrast and the coil's slow field vary from scanner to
# scanner. Sides matter (hemispheres, knees); allow mirrors by `changes` where they do not.
_MRI = Ranges(
    area=(0.4, 1.0),
    aspect=(0.9, 1.1),
    rotation_degrees=15,
    tilt_degrees=10,
    brightness=0.05,
    contrast=(0.75, 1.25),
    gamma=(0.7, 1.5),
    gamma_probability=0.5,
    bias_field=0.2,
    noise_std=(0.0, 0.03),
    noise_probability=0.2,
    **_SOFT_FOCUS,
)

# A slide has no upright, so all mirrors and right angles are allowed; slanted ones would invent
# texture. Colour is the stain: it may vary as laboratories do, in optical density ("HED-light",
# https://arxiv.org/abs/1902.06543), never by turning the hue, which would swap the stains.
_HISTOLOGY = Ranges(
    area=(0.4, 1.0),
    aspect=(0.9, 1.1),
    quarter_turns=True,
    flips=(0.0, 0.5, 0.5),
    outside="reflection",
    brightness=0.05,
    contrast=(0.95, 1.05),
    stain_scale=0.05,
    stain_shift=0.03,
    noise_std=(0.0, 0.02),
    noise_probability=0.1,
    **_SOFT_FOCUS,
)

# Skin has no upright either. Its colour tells a melanoma from a naevus: at the strength that
# photographs get (0.4) SimCLR fell below an untrained encoder, at 0.1 it rose above it.
_DERMATOLOGY = Ranges(
    area=(0.3, 1.0),
    aspect=(0.75, 1.333),
    rotation_degrees=180,
    flips=(0.0, 0.5, 0.5),
    outside="reflection",
    brightness=0.1,
    contrast=(0.9, 1.1),
    saturation=(0.9, 1.1),
    hue_turns=0.02,
    noise_std=(0.0, 0.02),
    noise_probability=0.1,
    **_SOFT_FOCUS,
)

# Cells lie in any direction; lamps, exposure and dyes set each channel's gain by itself.
_MICROSCOPY = Ranges(
    area=(0.4, 1.0),
    aspect=(0.9, 1.1),
    rotation_degrees=180,
    flips=(0.5, 0.5, 0.5),
    outside="reflection",
    brightness=0.1,
    contrast=(0.7, 1.4),
    channel_gain=(0.8, 1.25),
    noise_std=(0.0, 0.05),
    noise_probability=0.3,
    **_SOFT_FOCUS,
)

PRESETS: Mapping[str, Ranges] = {
    "ct": _CT,
    "cxr": _CXR,
    "dermatology": _DERMATOLOGY,
    "histology": _HISTOLOGY,
    "microscopy": _MICROSCOPY,
    "mri": _MRI,
}
"""Modality -> what may be varied in its images."""


@section
class Augmentation:
    """How views of an image are varied: a modality's preset, and what a run changes in it."""

    modality: str = "dermatology"
    """Kind of image: ct, cxr, dermatology, histology, microscopy or mri."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Ranges that differ from the preset, such as ``{flips: [0, 0, 0.5]}``."""

    @model_validator(mode="after")
    def _known(self) -> "Augmentation":
        if self.modality not in PRESETS:
            raise ValueError(unknown("modality", self.modality, PRESETS))
        self.ranges()
        return self

    def ranges(self) -> Ranges:
        """Return the preset with the changes; ValueError names every fault in them."""
        preset = asdict(PRESETS[self.modality])
        try:
            return TypeAdapter(Ranges).validate_python({**preset, **self.changes})
        except ValidationError as fault:
            raise ValueError(
                " ".join(sentence(one, list(preset)) for one in fault.errors())
            ) from None
