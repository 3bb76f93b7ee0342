"""What of an image is patient, by a threshold: to scale by it and to cut the air away.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.shaping.strided import every

COARSE = {2: 128, 3: 48}
"""Axes -> a mask is found on a copy of about so many voxels a side: anatomy is larger than that."""

SAMPLE = 1 << 16
SHAPED = 1 << 14
"""Values that a threshold is taken from: the shape of a histogram needs fewer than its ends."""

BINS = 256
FAINT = 0.1
"""Part of the range of values below which there is but noise."""


def otsu(values: NDArray[Any]) -> float:
    """Return the threshold that parts *values* best in two, by the variance between them.

    Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076. Of a constant, that constant.
    """
    some = sampled(values, SHAPED).astype(np.float64)
    low, high = float(some.min()), float(some.max())
    if low == high:
        return low
    edges = np.linspace(low, high, BINS + 1)
    places = ((some - low) * (BINS / (high - low))).astype(np.int64)
    counts = np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = below * above * (total / below - (total[-1] - total) / above) ** 2
    best = np.flatnonzero(np.nan_to_num(apart) == np.nan_to_num(apart).max())
    return float(edges[1:][best].mean())  # between two clear modes, the middle of the valley


def coarse(image_CS: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Return the first channel, thinned out to about `COARSE` a side, and by how much."""
    wanted = COARSE[image_CS.ndim - 1]
    steps = tuple(-(-side // wanted) for side in image_CS.shape[1:])
    thin = image_CS[0][tuple(slice(None, None, step) for step in steps)]
    return np.ascontiguousarray(thin, np.float32), steps


def largest(mask_S: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected region of a mask: the patient, not the table or a marker."""
    from scipy.ndimage import label

    regions, count = label(mask_S)
    if count < 2:
        return mask_S
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    found: NDArray[np.bool_] = regions == sizes.argmax()
    return found


def mask_of(thin_S: NDArray[np.float32], modality: str) -> NDArray[np.bool_]:
    """Return what is patient, by a threshold that suits the modality.

    CT: -500 HU, between air and fat. Mammography: Otsu's on the logarithm, since skin is far darker
    than gland. Else Otsu's, but no more than a tenth of the range: it may part fat from muscle, and
    what is cut away is lost, while air that stays costs little.
    """
    if modality == "ct":
        return np.asarray(thin_S > -500)
    if modality == "mg":
        logarithm = np.log1p(thin_S - thin_S.min())
        return np.asarray(logarithm > otsu(logarithm))
    some = sampled(thin_S, SHAPED)
    low, high = percentiles(some, (1, 99.5))
    return np.asarray(thin_S > min(otsu(some), low + FAINT * (high - low)))


def sampled(values: NDArray[Any], count: int = SAMPLE) -> NDArray[Any]:
    """Return some *count* of the values, evenly spread: percentiles need no more of them."""
    return every(values, max(1, values.size // count) | 1)  # odd: every column in turn


def percentiles(values: NDArray[Any], shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return what NumPy does, linear between two values, with no more sorted than need be."""
    places = np.asarray(shares) / 100 * (values.size - 1)
    low = places.astype(np.int64)
    high = np.minimum(low + 1, values.size - 1)
    ordered = np.partition(values, np.unique([low, high]), axis=None)
    ends = ordered[low] + (places - low) * (ordered[high].astype(np.float64) - ordered[low])
    return tuple(float(end) for end in ends)


def box_of(
    mask_S: NDArray[np.bool_], steps: tuple[int, ...], shape: tuple[int, ...], margin: float
) -> tuple[slice, ...]:
    """Return the box around a coarse mask in full voxels, wider by *margin* of its size a side.

    It holds what lies between the last coarse voxel outside and the first within. Everything when
    the mask is empty.
    """
    box = []
    for axis, (step, side) in enumerate(zip(steps, shape, strict=True)):
        others = tuple(other for other in range(mask_S.ndim) if other != axis)
        hit = np.flatnonzero(mask_S.any(axis=others))
        if not hit.size:
            return tuple(slice(0, whole) for whole in shape)
        room = round((hit[-1] - hit[0] + 1) * step * margin)
        low, high = int(hit[0]) * step - (step - 1) - room, int(hit[-1] + 1) * step + room
        box.append(slice(max(0, low), min(side, high)))
    return tuple(box)
