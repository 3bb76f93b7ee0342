"""Masks: label maps that a table names beside an image, cut and sized as the image was.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.decode import FORMATS
from confrere_client.ingest.reader import Exam, Part, Reader
from confrere_client.ingest.shaping.orient import flattened, laid, turned
from confrere_client.ingest.shaping.strided import every

LABEL_RULES = 3
"""Raise it when it is decided otherwise what is a label map, which image it fits and how it lies on
that: exams that this may concern are then read again. 1: before rules were counted; 2: before a
radiograph's way was kept, by which boxes and masks turn with it."""

UNTOLD = ("nifti", "volume")
"""Readers of files that do not say themselves whether they hold an image or labels."""

MISFIT = "mask does not fit its image"
ELSEWHERE = "mask has another spacing or place than its image"
LABELS = "label map without an image"
MOST_CLASSES, MOST_COLOURS = 256, 32
MOST_CHANGES = 0.35
"""Of neighbours along a row, one of them at least of a class, so many may differ."""

SAMPLE = 4096


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A label map as its file has it, and what that says of where it lies."""

    values_S: Any
    """Whole numbers; None where the file holds none."""

    spacing_mm: tuple[float, ...] = ()
    centre_mm: tuple[float, ...] = ()
    codes: NDArray[np.int64] | None = None
    """How a volume is yet to be turned; None: it is a picture, or turned already."""

    as_stored: bool = False
    """Whether it is a picture as its file has it: no reader has turned it upright."""

    oriented: bool = False
    """Whether its file says so."""

    named: bool = False
    """Whether a catalog says whose it is; else its own name does."""


def read_mask(
    reader: Reader, parts: Sequence[Part], options: Mapping[str, Any], *, named: bool = False
) -> Mask:
    """Return the label map that *parts* hold as whole numbers.

    A picture is read as it stands (palette entries are labels), since its levels mean classes.
    """
    if reader.last_resort:
        return Mask(values_S=_labels(_stored(parts[0].file)), as_stored=True, named=named)
    exams = list(reader.load(parts, options))
    if len(exams) != 1 or exams[0].pixels.ndim not in (3, 4) or len(exams[0].pixels) != 1:
        return Mask(values_S=None)
    (exam,) = exams
    stored = exam.stored
    spacing = stored.spacing_mm if stored and exam.spacing_mm else exam.spacing_mm
    return Mask(
        values_S=_labels(stored.voxels_CZYX[0] if stored else exam.pixels[0]),
        spacing_mm=spacing if exam.spacing_told else (),
        centre_mm=exam.centre_mm,
        codes=stored.codes if stored else None,
        as_stored=exam.turned is None,
        oriented=stored is not None and stored.oriented,
        named=named,
    )


def fitted(mask: Mask, exam: Exam) -> tuple[Any, str]:
    """Return the labels that go with *exam*, None if they do not, and what is to be said of them.

    What a catalog names goes before the headers: another spacing or place is then only said.
    """
    fault = misfit(mask, exam)
    if fault and not (mask.named and fault == ELSEWHERE):
        return None, fault
    return _laid(mask, exam).values_S, fault


def misfit(mask: Mask, exam: Exam) -> str:
    """Return why *mask* is none of *exam*, by size or by what both files say of their grids.

    Empty when it may be one: what a file does not say is not held against it. Grids may be a
    hundredth of a step and half a voxel apart, since headers round.
    """
    mask = _laid(mask, exam)
    source = (exam.source_shape or exam.pixels.shape)[1:]
    if mask.values_S is None or mask.values_S.shape != source:
        return MISFIT
    steps = exam.spacing_mm if exam.spacing_told else ()
    if not steps or len(steps) != len(mask.spacing_mm):
        return ""
    if not np.allclose(mask.spacing_mm, steps, rtol=0.01, atol=0):
        return ELSEWHERE
    if not exam.centre_mm or not mask.centre_mm:
        return ""
    steps_ras = steps[::-1] if len(steps) == 3 else [max(steps)] * 3
    apart = np.abs(np.subtract(mask.centre_mm, exam.centre_mm)) / steps_ras
    return ELSEWHERE if apart.max() > 0.5 else ""


def _laid(mask: Mask, exam: Exam) -> Mask:
    """Return *mask* turned as its header says, or as *exam* was where one of both says nothing.

    A picture of labels is drawn on the image as its file has it, so it turns with a radiograph; one
    that is kept as a radiograph itself says how it lies, and its reader has turned it.

    Each format assumes something else then (NIfTI that x runs to the left, ITK that y runs to the
    back too): believed, it would mirror a mask that is stored just as its image is.
    """
    if mask.values_S is None:
        return mask
    if mask.codes is None:
        its_frame = exam.turned and mask.values_S.shape == tuple(exam.turned.size)
        way = exam.turned.corners if exam.turned and its_frame and mask.as_stored else None
        return replace(mask, values_S=laid(mask.values_S, way)) if way else mask
    codes, its = mask.codes, exam.stored
    if its and not (mask.oriented and its.oriented):
        codes = its.codes
    steps = mask.spacing_mm or (1.0, 1.0, 1.0)
    values, spacing = flattened(*turned(mask.values_S[None], steps, codes))
    told = spacing if mask.spacing_mm else ()
    return replace(mask, values_S=values[0], spacing_mm=told, codes=None)


def fit_mask(mask_S: Any, crop: Any, shape: tuple[int, ...]) -> Any:
    """Return a mask cut by *crop*, at *shape*.

    Nearest neighbour: between two labels there is no third.
    """
    cut = mask_S[tuple(slice(*ends) for ends in crop)] if crop else mask_S
    picks = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(shape, cut.shape, strict=True)
    ]
    return np.ascontiguousarray(cut[np.ix_(*picks)])


def kind_of_labels(reader: Reader, parts: Sequence[Part], options: Mapping[str, Any]) -> str:
    """Return 'labels' for a label map, 'colour' for one whose classes are colours, else ''."""
    if reader.last_resort:
        values = _stored(parts[0].file)
        if values.ndim == 3:
            return "colour" if _few_colours(values) else ""
    else:
        exams = list(reader.load(parts, options))
        if len(exams) != 1 or exams[0].pixels.shape[0] != 1:
            return ""
        values = exams[0].pixels[0]
    return "labels" if is_label_map(values) else ""


def is_label_map(values_S: NDArray[Any]) -> bool:
    """Say whether values are classes: few whole numbers, and neighbours are mostly of one class.

    A heuristic: an image of few grey levels in flat areas (a drawing, a thresholded scan) passes.
    """
    some = every(values_S, max(1, values_S.size // SAMPLE) | 1)
    if len(np.unique(some)) > MOST_CLASSES or (labels := _labels(values_S)) is None:
        return False
    classes = np.count_nonzero(np.bincount(labels.reshape(-1)))
    if classes < 2 or classes > MOST_CLASSES:
        return False
    left, right = labels[..., :-1], labels[..., 1:]
    inside = np.count_nonzero(left | right)
    changes = np.count_nonzero(left != right)
    return bool(classes == 2 or (inside and changes <= MOST_CHANGES * inside))


def _few_colours(values_YXC: NDArray[Any]) -> bool:
    flat = values_YXC.reshape(-1, values_YXC.shape[-1])
    some = flat[:: max(1, len(flat) // SAMPLE) | 1]
    return len(np.unique(some, axis=0)) <= MOST_COLOURS


def _labels(values: NDArray[Any]) -> Any:
    """Return *values* as uint8 or uint16; None where they are no labels."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    top = values.max(initial=0)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return None
    if values.dtype.kind not in "uif" or values.min(initial=0) < 0 or top > 65535:
        return None
    return values.astype(np.uint8 if top <= 255 else np.uint16)


def _stored(file: Path) -> NDArray[Any]:
    with Image.open(file, formats=FORMATS) as image:
        values = np.asarray(image)
    grey = values.ndim == 3 and bool((values[..., :3] == values[..., :1]).all())
    return values[..., 0] if grey else values
