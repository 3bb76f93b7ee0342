"""An exam becomes what is trained on: finite, scaled as its modality needs, cut, at one spacing.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.reader import Exam, Skipped, Voi
from confrere_client.ingest.shaping.foreground import box_of, coarse, largest, mask_of
from confrere_client.ingest.shaping.intensity import displayed, scaled
from confrere_client.ingest.shaping.resample import resampled, shape_for
from confrere_client.ingest.shaping.stain import stain_statistics
from confrere_client.ingest.shaping.strided import extremes
from confrere_common.errors import unknown
from confrere_common.preparation import WINDOWS
from confrere_common.section import section

CROPPED = ("ct", "mr", "mg")
"""Modalities that hold much air, and whose air is told by a threshold; in PET that would cut cold
tissue away."""

MEASURED = ("mr", "pt")
"""Modalities whose volumes are scaled alike whatever their depth."""

ALIASES: Mapping[str, str] = {"mri": "mr", "cxr": "dx", "histology": "sm"}
"""What a plan may call a modality -> what DICOM does."""


@section
class Config:
    """How values are scaled and cut; the defaults suit a first run on mixed data."""

    ct_windows: tuple[str, ...] = ("wide",)
    """Hounsfield windows, one a channel: wide, soft, lung, bone, brain, liver."""

    crop_foreground: bool = True
    """Cut the air around the patient away, in CT, MR and mammography."""

    margin: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """How much air stays on each side, as a part of the patient's extent."""

    window: Literal["stored", "percentile"] = "stored"
    """Radiographs, ultrasound and captures as their file's VOI window or table shows them, where it
    has one that shows anything; percentile: all by their own values (8 bits: as stored)."""

    most_bad: Annotated[float, Field(ge=0, le=1)] = 0.05
    """An image with a larger part of its values not finite is skipped; fewer become the darkest."""

    label_maps: bool = True
    """Look for label maps beside images, by name and content: they become masks of their images, or
    are skipped. Off: what no table calls a mask is an image."""

    @field_validator("ct_windows")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names or ("",):
            if name not in WINDOWS:
                raise ValueError(unknown("window", name, WINDOWS))
        return names


DEFAULT = Config()


def fit_exam(
    exam: Exam, plan: Plan, config: Config = DEFAULT
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return (C, [Z,] Y, X) pixels as *plan* wants them, and a JSON-able record of what was done.

    uint8 of pictures and slides stays so; everything else becomes uint16 over its full range.
    Skipped: no pixels, one value only, too much that is not finite.
    """
    named = plan.named(str(exam.tags.get("modality", "")))
    modality = ALIASES.get(named, named)
    pixels, replaced = _finite(exam.pixels, config)
    if modality in MEASURED and pixels.ndim == 4 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32)  # rounded, not made to be looked at
    record: dict[str, Any] = {
        "modality": modality,
        "shape_before": list(pixels.shape),
        "spacing_before_mm": [float(step) for step in exam.spacing_mm],
        "replaced": replaced,
    }
    if exam.turned:
        record["turned"] = asdict(exam.turned)
    pixels = pixels[(slice(None), *_box(pixels, modality, config, record))]
    values, scale = _scaled(pixels, modality, config, exam.voi)
    shape = shape_for(pixels.shape[1:], exam.spacing_mm, plan.image_px, plan.spacing_mm)
    levels = _levels(resampled(values, shape))
    record |= {
        **scale,
        "shape_after": list(levels.shape),
        "spacing_after_mm": _spacing(exam.spacing_mm, pixels.shape[1:], shape),
        "spacing_told": exam.spacing_told,
    }
    if modality == "sm" and levels.dtype == np.uint8 and levels.shape[0] == 3:
        record["stain"] = stain_statistics(levels)
    return levels, record


def _finite(pixels: NDArray[Any], config: Config) -> tuple[NDArray[Any], int]:
    """Return the pixels with what is not finite at the darkest, and how many these were."""
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise Skipped("no pixels")
    bad, ends = 0, extremes(pixels)
    if not np.isfinite(ends).all():  # else nothing in between can be
        pixels, bad = _replaced(pixels, config)
        ends = extremes(pixels)
    if ends[0] == ends[1]:
        raise Skipped("constant image")
    return pixels, bad


def _replaced(pixels: NDArray[Any], config: Config) -> tuple[NDArray[Any], int]:
    good = np.isfinite(pixels)
    bad = int(pixels.size - np.count_nonzero(good))
    if bad > config.most_bad * pixels.size:
        raise Skipped("not finite", f"{100 * bad / pixels.size:.1f} % of its values")
    return np.where(good, pixels, pixels[good].min()), bad


def _box(
    pixels_CS: NDArray[Any], modality: str, config: Config, record: dict[str, Any]
) -> tuple[slice, ...]:
    """Return the box that holds the patient, and note it."""
    whole = tuple(slice(0, side) for side in pixels_CS.shape[1:])
    displayed = pixels_CS.dtype == np.uint8
    if not config.crop_foreground or modality not in CROPPED or displayed:
        return whole
    thin, steps = coarse(pixels_CS)
    mask = largest(mask_of(thin, modality))
    box = box_of(mask, steps, pixels_CS.shape[1:], config.margin)
    record["crop"] = [[int(side.start), int(side.stop)] for side in box]
    return box


def _scaled(
    pixels_CS: NDArray[Any], modality: str, config: Config, voi: Voi | None
) -> tuple[NDArray[Any], Mapping[str, Any]]:
    """Return float32 of 0 to 1 (uint8 stays so, for what has no unit) and how they were made."""
    voi = voi if config.window == "stored" else None
    if pixels_CS.dtype == np.uint8:
        levels, record = displayed(pixels_CS, voi)
        return levels, {"scale": record}
    made = scaled(pixels_CS, modality, config.ct_windows, voi)
    return made.values, {"scale": dict(made.record)}


def _levels(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.uint8:
        return values
    # in place: it is this function's alone; resampling does not leave 0 to 1, rounding aside
    np.clip(values, 0, 1, out=values)
    np.multiply(values, np.float32(65535), out=values)
    np.rint(values, out=values)
    return values.astype(np.uint16)


def _spacing(
    spacing_mm: tuple[float, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> list[float]:
    """Return the spacing after the image went from one size to another."""
    if len(spacing_mm) != len(before):
        return []
    sides = zip(spacing_mm, before, after, strict=True)
    return [round(step * old / new, 6) for step, old, new in sides]
