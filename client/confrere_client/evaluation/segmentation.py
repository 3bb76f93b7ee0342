"""How well masks lie on each other: Dice, IoU and the 95th percentile of the Hausdorff distance.

Every measure is of one case and one class; class 0 is background and is not judged. What masks that
are empty count for, for it must be said:

=====================  ======  ====  =======================================================
truth, prediction      Dice    IoU   HD95
=====================  ======  ====  =======================================================
both have the class    2I/S    I/U   MONAI's, in mm where the spacing is known
both empty             1       1     0: nothing to find, nothing invented
one of them is empty   0       0     the image's diagonal, the worst that this image allows
=====================  ======  ====  =======================================================

An undefined distance (infinite, or left out) would reward a model for finding nothing at all where
it is unsure. How often each row applied is told with the figures.

A class that no case of a test set has takes no part in a mean over classes: else whoever finds
nothing would score 1 for it, and the more of them a run names, the better.

Shapes: S seeds, N cases, [Z] Y X voxels, K classes (background among them), C = K - 1 classes that
are judged.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.evaluation.paired import Quartiles, quartiles
from confrere_client.measure.intervals import Floats
from confrere_common.errors import DataError

PERCENTILE = 95.0


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The measures of each case and class."""

    dice_NC: Floats
    iou_NC: Floats
    hd95_NC: Floats
    """In mm where the spacing was given, else in voxels; NaN where it was not asked for."""

    truth_empty_NC: NDArray[np.bool_]
    found_empty_NC: NDArray[np.bool_]

    @staticmethod
    def joined(parts: "Sequence[Cases]") -> "Cases":
        """Return batches of cases as one."""
        names = Cases.__dataclass_fields__
        return Cases(
            **{name: np.concatenate([vars(part)[name] for part in parts]) for name in names}
        )


def over_classes(values_NC: Floats, truth_empty_NC: NDArray[np.bool_]) -> Floats:
    """Return each case's mean over the classes that any case has, (N,); NaN where none is there."""
    there_C = ~np.asarray(truth_empty_NC, np.bool_).all(axis=0)
    if not there_C.any():
        return np.full(len(values_NC), np.nan)
    return np.asarray(values_NC[:, there_C].mean(axis=1))


def judged(
    found_NZYX: NDArray[Any],
    truth_NZYX: NDArray[Any],
    classes: int,
    *,
    spacing_mm: Sequence[float] | None = None,
    distances: bool = True,
) -> Cases:
    """Return the measures of cases of one shape and spacing; masks hold classes 0 to K - 1.

    Distances take by far the longest: without *distances* they are NaN.
    DataError when shapes differ, a label is out of range, or the spacing lacks an axis.
    """
    found_NZYX, truth_NZYX = np.asarray(found_NZYX), np.asarray(truth_NZYX)
    _must_fit(found_NZYX, truth_NZYX, classes, spacing_mm)
    axes = tuple(range(1, truth_NZYX.ndim))
    kinds = range(1, classes)
    found, truth = (
        np.stack([mask_NZYX == kind for kind in kinds], axis=1)
        for mask_NZYX in (found_NZYX, truth_NZYX)
    )
    inner = tuple(axis + 1 for axis in axes)
    shared_NC, found_NC, truth_NC = (
        part.sum(axis=inner).astype(np.float64) for part in (found & truth, found, truth)
    )
    both_empty_NC = (found_NC + truth_NC) == 0
    sizes_NC = np.where(both_empty_NC, 1, found_NC + truth_NC)
    return Cases(
        dice_NC=np.where(both_empty_NC, 1, 2 * shared_NC / sizes_NC),
        iou_NC=np.where(both_empty_NC, 1, shared_NC / np.maximum(sizes_NC - shared_NC, 1)),
        hd95_NC=_hd95(found, truth, spacing_mm) if distances else np.full_like(sizes_NC, np.nan),
        truth_empty_NC=truth_NC == 0,
        found_empty_NC=found_NC == 0,
    )


def _must_fit(
    found_NZYX: NDArray[Any],
    truth_NZYX: NDArray[Any],
    classes: int,
    spacing_mm: Sequence[float] | None,
) -> None:
    if found_NZYX.shape != truth_NZYX.shape or truth_NZYX.ndim not in (3, 4):
        raise DataError(
            f"predicted masks of shape {found_NZYX.shape} do not lie on true ones of shape "
            f"{truth_NZYX.shape}: give both as (cases, [Z,] Y, X), resampled to the truth's grid."
        )
    for whose, mask_NZYX in (("predicted", found_NZYX), ("true", truth_NZYX)):
        if mask_NZYX.size and not 0 <= mask_NZYX.min() <= mask_NZYX.max() < classes:
            raise DataError(
                f"{whose} masks hold classes {mask_NZYX.min()} to {mask_NZYX.max()}, but there are "
                f"0 to {classes - 1}: map other values to a class or to background first."
            )
    if spacing_mm is not None and len(spacing_mm) != truth_NZYX.ndim - 1:
        raise DataError(
            f"a spacing of {len(spacing_mm)} axes does not fit masks of {truth_NZYX.ndim - 1}: "
            "give millimetres along [Z] Y X."
        )


def _hd95(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float] | None
) -> Floats:
    """Return the distances of shape (N, C); MONAI is asked only where both masks hold something."""
    sides = truth.shape[2:]
    spacing = tuple(float(step) for step in spacing_mm or (1.0,) * len(sides))
    diagonal = math.hypot(*(side * step for side, step in zip(sides, spacing, strict=True)))
    inner = tuple(range(2, truth.ndim))
    some_found_NC, some_truth_NC = found.any(axis=inner), truth.any(axis=inner)
    distance_NC = np.where(some_found_NC == some_truth_NC, 0.0, diagonal)
    for case, kind in np.argwhere(some_found_NC & some_truth_NC):
        distance_NC[case, kind] = _between(found[case, kind], truth[case, kind], spacing)
    return distance_NC


def _between(
    found_ZYX: NDArray[np.bool_], truth_ZYX: NDArray[np.bool_], spacing: tuple[float, ...]
) -> float:
    """Return the larger of the two directed 95th percentiles between the masks' edges."""
    # Imported here: MONAI takes seconds to load, and only distances need it.
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    def one_case(mask_ZYX: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(mask_ZYX[None, None].astype(np.float32))

    with warnings.catch_warnings():
        # MONAI 1.5 to 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        distance: Tensor = compute_hausdorff_distance(
            one_case(found_ZYX),
            one_case(truth_ZYX),
            include_background=True,
            percentile=PERCENTILE,
            spacing=list(spacing),
        )
    return float(distance[0, 0])


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a test set says of one class, over S seeds; values are the mean over seeds."""

    dice: Quartiles
    hd95: Quartiles
    """In the unit of the cases' distances."""

    cases: int
    truth_empty: int
    """Cases whose truth lacks the class."""

    missed_S: tuple[int, ...]
    """Cases that hold the class and where nothing was found, seed by seed."""

    invented_S: tuple[int, ...]
    """Cases without the class where something was found, seed by seed."""


def structures(seeds: Sequence[Cases], names: Sequence[str]) -> Mapping[str, Structure]:
    """Return class name -> what the same cases say of it; *names* has C entries."""
    found: dict[str, Structure] = {}
    for kind, name in enumerate(names):
        lacks_N = seeds[0].truth_empty_NC[:, kind]
        nothing_SN = np.stack([one.found_empty_NC[:, kind] for one in seeds])
        found[name] = Structure(
            dice=quartiles(np.stack([one.dice_NC[:, kind] for one in seeds])),
            hd95=quartiles(np.stack([one.hd95_NC[:, kind] for one in seeds])),
            cases=len(lacks_N),
            truth_empty=int(lacks_N.sum()),
            missed_S=tuple((nothing_SN & ~lacks_N).sum(axis=1).tolist()),
            invented_S=tuple((~nothing_SN & lacks_N).sum(axis=1).tolist()),
        )
    return found
