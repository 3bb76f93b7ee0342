"""A volume turned so that its axes run from left to right, back to front and foot to head (RAS).

Shapes: C channels, Z Y X voxels; an affine maps the voxel (x, y, z) to millimetres.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK count millimetres towards left and back; NIfTI towards right and front."""

AS_STORED = np.array([[0, 1], [1, 1], [2, 1]])
"""Codes of a volume that is not turned."""


def affine_of(
    origin: NDArray[np.float64], axes: NDArray[np.float64], spacing_xyz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the affine of a grid; column k of *axes* is the direction of voxel axis k."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_xyz
    affine[:3, 3] = origin
    return affine


def axis_codes(affine: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return, for voxel axes x y z, the patient axis (0 1 2) and sign they run along, as (3, 2).

    Every patient axis is taken once, the clearest first. ValueError when the affine is singular.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (lengths > 0).all():
        raise ValueError("the affine has no three directions")
    cosines = affine[:3, :3] / lengths
    if abs(np.linalg.det(cosines)) < 1e-3:
        raise ValueError("the affine has no three directions")
    codes = np.zeros((3, 2), np.int64)
    left = np.abs(cosines)
    for _ in range(3):
        patient, voxel = np.unravel_index(np.argmax(left), left.shape)
        codes[voxel] = (patient, 1 if cosines[patient, voxel] >= 0 else -1)
        left[patient, :] = -1
        left[:, voxel] = -1
    return codes


def centre_of(affine: NDArray[np.float64], shape_ZYX: tuple[int, ...]) -> tuple[float, ...]:
    """Return where the centre of a grid lies, along the axes of *affine*."""
    middle_xyz = [(side - 1) / 2 for side in reversed(shape_ZYX)]
    return tuple(float(at) for at in affine[:3, :3] @ middle_xyz + affine[:3, 3])


def to_ras(
    voxels_CZYX: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Return the volume with the axes nearest to RAS and its spacing Z Y X: a view, not resampled.

    Array axis Z runs from foot to head, Y from back to front, X from left to right.
    """
    return turned(voxels_CZYX, spacing_of(affine), axis_codes(affine))


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the steps Z Y X of a grid as it is stored."""
    return tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0)[::-1])


def turned(
    voxels_CZYX: NDArray[Any], spacing_mm: tuple[float, ...], codes: NDArray[np.int64]
) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Return a stored volume, a view of it, and its spacing Z Y X turned as *codes* say."""
    xyz = voxels_CZYX.transpose(0, 3, 2, 1)
    order = np.argsort(codes[:, 0])  # the voxel axis that shall come at patient axis 0, 1, 2
    flips = [slice(None, None, int(codes[voxel, 1])) for voxel in order]
    made = xyz.transpose(0, *(1 + order))[(slice(None), *flips)]
    x, y, z = (spacing_mm[2 - int(voxel)] for voxel in order)
    return made.transpose(0, 3, 2, 1), (z, y, x)


def flattened(
    voxels_CZYX: NDArray[Any], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Return a volume one voxel thin as a picture (C, Y, X), any other as is; and its spacing."""
    thin = next((axis for axis in (1, 2, 3) if voxels_CZYX.shape[axis] == 1), None)
    if thin is None:
        return voxels_CZYX, spacing_mm
    kept = tuple(step for axis, step in enumerate(spacing_mm, 1) if axis != thin)
    return voxels_CZYX.squeeze(thin), kept


def laid(picture_YX: NDArray[Any], corners: tuple[int, ...]) -> NDArray[Any]:
    """Return a view of a picture as ``reader.Turned.corners`` says that another was turned.

    >>> laid(np.array([[1, 2, 3], [4, 5, 6]]), (1, 0, 3, 2)).tolist()
    [[3, 2, 1], [6, 5, 4]]
    """
    swapped = abs(corners[1] - corners[0]) == 2
    made = picture_YX.T if swapped else picture_YX
    # the file's corner that must come first is found above or below, left or right
    above, left = corners[0] in ((0, 1), (0, 2))[swapped], corners[0] in ((0, 2), (0, 1))[swapped]
    return made[:: 1 if above else -1, :: 1 if left else -1]
