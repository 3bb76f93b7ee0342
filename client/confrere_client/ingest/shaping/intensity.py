"""Values in a file's own unit become 0 to 1, in the way that each modality needs.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.reader import Voi
from confrere_client.ingest.shaping.foreground import coarse, largest, mask_of, percentiles, sampled
from confrere_client.ingest.shaping.voi import PASSED_OVER, record_of, shown, tells
from confrere_common.preparation import DEFAULT_PERCENTILES, PERCENTILES, WINDOWS


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Values of 0 to 1, and how they came about."""

    values: NDArray[np.float32]
    record: Mapping[str, Any]


def scaled(
    image_CS: NDArray[Any], modality: str, windows: tuple[str, ...], voi: Voi | None = None
) -> Scaled:
    """Return an image of 0 to 1: CT by Hounsfield windows, one a channel; else by percentiles.

    What is no measure (radiographs, captures) is shown as *voi* says, where that shows anything.

    MR and PET take them from what is not air, so that neither a large field of view nor a slow bias
    of the coil shifts them; mammography from the breast, outside of which all is black; radiographs
    leave out their collimated border.
    """
    if modality == "ct":
        return _windowed(image_CS, windows)
    thin, _ = coarse(image_CS)
    measured = modality in PERCENTILES
    if voi is not None and not measured:
        if tells(voi, _exposed(thin)):
            return _as_its_file_wants(image_CS, modality, voi)
        made = scaled(image_CS, modality, windows)
        kind = f"{made.record['kind']} ({PASSED_OVER})"
        return Scaled(values=made.values, record={**made.record, "kind": kind})
    if modality == "mg":
        return _breast(image_CS)
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


def displayed(image_CS: NDArray[np.uint8], voi: Voi | None) -> tuple[NDArray[np.uint8], Any]:
    """Return a picture of 8 bits as it is, or as *voi* says where that shows anything; how."""
    if voi is None:
        return image_CS, {"kind": "as stored"}
    if not tells(voi, _exposed(coarse(image_CS)[0])):
        return image_CS, {"kind": f"as stored ({PASSED_OVER})"}
    levels = np.arange(256, dtype=np.uint8)
    table = np.rint(255 * shown(levels, voi)).astype(np.uint8)
    return np.take(table, image_CS), record_of(voi)


def _as_its_file_wants(image_CS: NDArray[Any], modality: str, voi: Voi) -> Scaled:
    values, record = shown(image_CS, voi), record_of(voi)
    if modality == "mg":
        values, share = _breast_alone(image_CS, values)
        record["breast"] = share
    return Scaled(values=values, record=record)


def _breast_alone(
    image_CS: NDArray[Any], values_CS: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """Return *values* with all but the breast black, and the breast's share of the picture."""
    thin, steps = coarse(image_CS)
    mask = largest(mask_of(thin, "mg"))
    if mask.any():
        values_CS *= _enlarged(mask, steps, image_CS.shape[1:])
    return values_CS, float(mask.mean())


def _breast(image_CS: NDArray[Any]) -> Scaled:
    """Return a mammogram scaled by its breast; air, markers and labels are black."""
    thin, _ = coarse(image_CS)
    inside = thin[largest(mask_of(thin, "mg"))]
    low, high = _ends(inside if inside.size else thin, (0.5, 99.5))
    values, share = _breast_alone(image_CS, _between(image_CS, low, high))
    return Scaled(
        values=values,
        record={"kind": "breast percentiles", "ends": [low, high], "breast": share},
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
