"""Values in a file's own unit become 0 to 1, in the way that each modality needs.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.shaping.foreground import coarse, largest, mask_of, percentiles, sampled
from confrere_common.preparation import DEFAULT_PERCENTILES, PERCENTILES, WINDOWS


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Values of 0 to 1, and how they came about."""

    values: NDArray[np.float32]
    record: Mapping[str, Any]


def scaled(image_CS: NDArray[Any], modality: str, windows: tuple[str, ...]) -> Scaled:
    """Return an image of 0 to 1: CT by Hounsfield windows, one a channel; else by percentiles.

    MR and PET take them from what is not air, so that neither a large field of view nor a slow bias
    of the coil shifts them; mammography from the breast, outside of which all is black; radiographs
    leave out their collimated border.
    """
    if modality == "ct":
        return _windowed(image_CS, windows)
    if modality == "mg":
        return _breast(image_CS)
    thin, _ = coarse(image_CS)
    measured = modality in PERCENTILES
    inside = thin[mask_of(thin, modality)] if measured else _exposed(thin)
    low, high = _ends(inside, PERCENTILES.get(modality, DEFAULT_PERCENTILES))
    if measured:
        low = min(low, float(thin.min()))  # air stays black, however bright the darkest tissue
    return Scaled(
        values=_between(image_CS, low, high),
        record={
            "kind": "foreground percentiles" if measured else "percentiles",
            "ends": [low, high],
        },
    )


def _windowed(image_CS: NDArray[Any], windows: tuple[str, ...]) -> Scaled:
    count = image_CS.shape[0]
    made = np.empty((len(windows) * count, *image_CS.shape[1:]), np.float32)
    for at, name in enumerate(windows):
        centre, width = WINDOWS[name]
        part = made[at * count : (at + 1) * count]
        np.subtract(image_CS, np.float32(centre - width / 2), out=part, casting="unsafe")
        part /= np.float32(width)
    np.clip(made, 0, 1, out=made)
    return Scaled(values=made, record={"kind": "hu windows", "windows": list(windows)})


def _breast(image_CS: NDArray[Any]) -> Scaled:
    """Return a mammogram scaled by its breast; air, markers and labels are black."""
    thin, steps = coarse(image_CS)
    mask = largest(mask_of(thin, "mg"))
    inside = thin[mask]
    low, high = _ends(inside if inside.size else thin, (0.5, 99.5))
    values = _between(image_CS, low, high)
    if inside.size:
        values *= _enlarged(mask, steps, image_CS.shape[1:])
    return Scaled(
        values=values,
        record={"kind": "breast percentiles", "ends": [low, high], "breast": float(mask.mean())},
    )


def _enlarged(
    mask_S: NDArray[np.bool_], steps: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return a coarse mask at full size, a coarse voxel wider so that no skin is lost."""
    from scipy.ndimage import binary_dilation

    made: NDArray[np.bool_] = binary_dilation(mask_S)
    for axis, step in enumerate(steps):
        made = np.repeat(made, step, axis=axis)
    return made[tuple(slice(0, side) for side in shape)]


def _exposed(thin_S: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values without the two extremes, when these fill whole borders and markers."""
    inner = thin_S[(thin_S > thin_S.min()) & (thin_S < thin_S.max())]
    return inner if inner.size > thin_S.size // 10 else thin_S.ravel()


def _ends(values: NDArray[np.float32], shares: tuple[float, float]) -> tuple[float, float]:
    """Return what becomes black and white; the extremes where the percentiles are one."""
    if not values.size:
        return 0.0, 1.0
    low, high = percentiles(sampled(values), shares)
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def _between(image_CS: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.subtract(image_CS, np.float32(low), dtype=np.float32)
    values *= np.float32(1 / (high - low) if high > low else 1.0)
    np.clip(values, 0, 1, out=values)
    return values
