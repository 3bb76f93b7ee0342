"""Maps of an image as files: NIfTI of volumes, PNG of a picture's classes, TIFF of its numbers.

A volume lies as its data set has it: prepared ones run left to right, back to front, foot to head
(RAS), with their spacing where that is known. Where the patient lay in the scanner is not kept.

Shapes: [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from confrere_client.finetune.pictures.paint import HUES


def write_classes(path: Path, classes: NDArray[np.uint8], spacing_mm: Sequence[float]) -> Path:
    """Write a label map, 0 being background; return its file. *path* has no ending yet."""
    if classes.ndim == 3:
        return _nifti(path, classes, spacing_mm)
    file = path.with_name(f"{path.name}.png")
    image = Image.fromarray(classes).convert("L")
    image.putpalette(_palette())  # numbers stay; a viewer shows colours
    image.save(file)
    return file


def write_numbers(path: Path, numbers: NDArray[Any], spacing_mm: Sequence[float]) -> Path:
    """Write a map of real numbers; return its file. *path* has no ending yet."""
    if numbers.ndim == 3:
        return _nifti(path, numbers.astype(np.float32), spacing_mm)
    file = path.with_name(f"{path.name}.tiff")
    Image.fromarray(numbers.astype(np.float32)).save(file)
    return file


def _nifti(path: Path, voxels_ZYX: NDArray[Any], spacing_mm: Sequence[float]) -> Path:
    affine = np.diag([*spacing_mm[::-1], 1.0]) if spacing_mm else None
    make: Any = nib.Nifti1Image
    image = make(voxels_ZYX.transpose(2, 1, 0), affine)
    if spacing_mm:
        image.header.set_xyzt_units("mm")
    file = path.with_name(f"{path.name}.nii.gz")
    nib.save(image, file)
    return file


def _palette() -> list[int]:
    colours = [(0, 0, 0), *(HUES[number % len(HUES)] for number in range(255))]
    return [part for colour in colours for part in colour]
