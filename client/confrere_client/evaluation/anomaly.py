"""How well a score tells the abnormal from the normal, by image and by voxel.

Higher scores mean more abnormal. Equal scores are decided together. The conventions: NaN where
there is no normal or no abnormal image (voxel); an image without an anomaly has part in the voxels'
measures through its false alarms; a region is a connected part of one image's mask (diagonals
connect), and counts as much as any other, whatever its size.

Shapes: D draws, N images, [Z] Y X voxels, V voxels of all images, T distinct scores, or thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.classification import average_precision, steps
from confrere_client.evaluation.paired import weighed_figure
from confrere_client.measure.intervals import Figure, Floats
from confrere_client.measure.probe import Integers, macro_auc
from confrere_common.errors import DataError

LIMIT = 0.3
"""Share of false alarms up to which PRO is averaged, as its authors do."""
ALARMS = np.concatenate([np.linspace(0, LIMIT, 151), np.linspace(LIMIT, 1, 51)[1:]])
"""Shares of normal voxels that alarm at the thresholds of a sweep: closest where PRO looks."""
RATE = 0.95
"""Share of the abnormal that must be found for the false alarms at 95 %."""


def auroc(scores_N: Floats, abnormal_N: NDArray[np.bool_], weights_DN: Floats) -> Floats:
    """Return the area under the ROC curve in each draw, shape (D,)."""
    two_N2 = np.stack([-scores_N, scores_N], axis=1)
    return macro_auc(two_N2, abnormal_N.astype(np.int64), weights_DN)


def best_f1(scores_N: Floats, abnormal_N: NDArray[np.bool_], weights_DN: Floats) -> Floats:
    """Return the F1 of the threshold that is best for the test set itself: an upper bound."""
    hits_DT, alarms_DT = steps(scores_N, abnormal_N, weights_DN)
    found_DT = hits_DT + alarms_DT + hits_DT[:, -1:]
    best_D = (2 * hits_DT / np.maximum(found_DT, 1e-300)).max(axis=1)
    return np.where(hits_DT[:, -1] > 0, best_D, np.nan)


def false_alarms(scores_N: Floats, abnormal_N: NDArray[np.bool_], weights_DN: Floats) -> Floats:
    """Return the share of the normal that alarms when 95 % of the abnormal is found."""
    hits_DT, alarms_DT = steps(scores_N, abnormal_N, weights_DN)
    enough_DT = hits_DT >= RATE * hits_DT[:, -1:] - 1e-9
    with np.errstate(invalid="ignore"):
        least_D = np.where(enough_DT, alarms_DT, np.inf).min(axis=1) / alarms_DT[:, -1]
    return np.where(hits_DT[:, -1] > 0, least_D, np.nan)


MEASURES = {
    "auroc": auroc,
    "average_precision": average_precision,
    "best_f1": best_f1,
    "false_alarms_at_95": false_alarms,
}


def image_figures(
    scores_SN: Floats, abnormal_N: NDArray[np.bool_], patients: Integers, *, seed: int = 0
) -> Mapping[str, Figure | None]:
    """Return the measures by image with intervals over patients; seeds come first."""
    scores_SN = np.atleast_2d(np.asarray(scores_SN, np.float64))
    _must_fit(scores_SN, abnormal_N[None])
    found = {}
    for name, measure in MEASURES.items():
        seeds = [
            lambda weights_DN, scores_N=scores_N, measure=measure: measure(
                scores_N, abnormal_N, weights_DN
            )
            for scores_N in scores_SN
        ]
        found[name] = weighed_figure(seeds, patients, seed=seed)
    return found


@dataclass(frozen=True, kw_only=True)
class VoxelResult:
    """What maps of anomaly tell of the places; figures without intervals."""

    auroc: float
    average_precision: float
    pro: float
    regions: int


def voxel_result(
    maps_NZYX: NDArray[Any], masks_NZYX: NDArray[Any], *, limit: float = LIMIT
) -> VoxelResult:
    """Return how well maps find the masks' places, over the voxels of all images together."""
    maps_NZYX, masks_NZYX = np.asarray(maps_NZYX, np.float64), np.asarray(masks_NZYX) > 0
    _must_fit(maps_NZYX, masks_NZYX)
    shares_NZYX, regions = _shares(masks_NZYX)
    scores_V, abnormal_V = maps_NZYX.ravel(), masks_NZYX.ravel()
    once_1V = np.ones((1, len(scores_V)))
    return VoxelResult(
        auroc=float(auroc(scores_V, abnormal_V, once_1V)[0]),
        average_precision=float(average_precision(scores_V, abnormal_V, once_1V)[0]),
        pro=_pro(scores_V, shares_NZYX.ravel(), limit),
        regions=regions,
    )


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What each image's map finds at thresholds that all images share, the highest first."""

    alarms_NT: Floats
    """Normal voxels that score at least so much."""

    hits_NT: Floats
    """Abnormal voxels that do."""

    overlap_NT: Floats
    """Sum over the image's regions of the share that does."""

    normal_N: Floats
    abnormal_N: Floats
    regions_N: Floats


def sweep(maps_NZYX: NDArray[Any], masks_NZYX: NDArray[Any]) -> Sweep:
    """Return counts from which figures for any weight of images follow.

    Thresholds are quantiles of the normal voxels' scores, so that counts of models whose scores
    have another scale may stand together: each is read at equal false alarms.
    """
    maps_NZYX, masks_NZYX = np.asarray(maps_NZYX, np.float64), np.asarray(masks_NZYX) > 0
    _must_fit(maps_NZYX, masks_NZYX)
    normal = maps_NZYX[~masks_NZYX]
    limits_T = _limits(normal) if normal.size else np.full(len(ALARMS) + 1, np.inf)
    parts = [_swept(one, mask, limits_T) for one, mask in zip(maps_NZYX, masks_NZYX, strict=True)]
    alarms, hits, overlap, regions = zip(*parts, strict=True)
    inner = tuple(range(1, masks_NZYX.ndim))
    abnormal_N = masks_NZYX.sum(axis=inner).astype(np.float64)
    return Sweep(
        alarms_NT=np.stack(alarms),
        hits_NT=np.stack(hits),
        overlap_NT=np.stack(overlap),
        normal_N=masks_NZYX[0].size - abnormal_N,
        abnormal_N=abnormal_N,
        regions_N=np.asarray(regions, np.float64),
    )


def _limits(normal_V: Floats) -> Floats:
    """Return thresholds from just above all that is normal down to its lowest."""
    above = np.nextafter(normal_V.max(), np.inf)
    return np.append(above, np.quantile(normal_V, 1 - ALARMS))


def _swept(
    map_ZYX: Floats, mask_ZYX: NDArray[np.bool_], limits_T: Floats
) -> tuple[Floats, Floats, Floats, int]:
    shares_1, regions = _shares(mask_ZYX[None])
    order_V = np.argsort(-map_ZYX, axis=None, kind="stable")
    falling_V = -map_ZYX.ravel()[order_V]
    counts_T = np.searchsorted(falling_V, -limits_T, side="right")

    def summed(values: NDArray[Any]) -> Floats:
        return np.append(0.0, np.cumsum(values.ravel()[order_V], dtype=np.float64))[counts_T]

    return summed(~mask_ZYX), summed(mask_ZYX), summed(shares_1[0]), regions


def pro(found: Sweep, weights_DN: Floats, *, limit: float = LIMIT) -> Floats:
    """Return overlap per region over false alarms up to *limit* in each draw, 1 being perfect.

    Source: https://arxiv.org/abs/1911.02357, at the thresholds of a sweep. NaN without a region.
    """
    return _under(found.overlap_NT, found.regions_N, found, weights_DN, limit)


def voxel_auroc(found: Sweep, weights_DN: Floats) -> Floats:
    """Return the area under the ROC curve of voxels in each draw, at the thresholds of a sweep."""
    return _under(found.hits_NT, found.abnormal_N, found, weights_DN, 1.0)


def _under(
    gains_NT: Floats, due_N: Floats, found: Sweep, weights_DN: Floats, limit: float
) -> Floats:
    due_D, normal_D = weights_DN @ due_N, weights_DN @ found.normal_N
    known_D = (due_D > 0) & (normal_D > 0)
    gains_DT = weights_DN @ gains_NT / np.where(known_D, due_D, 1)[:, None]
    alarms_DT = weights_DN @ found.alarms_NT / np.where(known_D, normal_D, 1)[:, None]
    areas = [_area(*pair, limit) for pair in zip(alarms_DT, gains_DT, strict=True)]
    return np.where(known_D, areas, np.nan)


def _area(alarms_T: Floats, gains_T: Floats, limit: float) -> float:
    """Return the mean height of a curve from (0, 0) over false alarms up to *limit*."""
    alarms_T, gains_T = np.append(0, alarms_T), np.append(0, gains_T)
    within_T = alarms_T <= limit
    x_T = np.append(alarms_T[within_T], limit)
    y_T = np.append(gains_T[within_T], np.interp(limit, alarms_T, gains_T))
    return float(np.diff(x_T) @ (y_T[1:] + y_T[:-1]) / 2 / limit)


def _shares(masks_NZYX: NDArray[np.bool_]) -> tuple[Floats, int]:
    """Return each voxel's share of its region (a region sums to 1), and the number of regions."""
    # Imported here: it takes long to load.
    from scipy import ndimage

    shares_NZYX = np.zeros(masks_NZYX.shape)
    joined = np.ones((3,) * (masks_NZYX.ndim - 1))
    regions = 0
    for number, mask_ZYX in enumerate(masks_NZYX):
        names_ZYX, count = ndimage.label(mask_ZYX, joined)
        sizes = np.bincount(names_ZYX.ravel())
        shares_NZYX[number] = np.where(mask_ZYX, 1 / sizes[names_ZYX], 0)
        regions += count
    return shares_NZYX, regions


def _pro(scores_V: Floats, shares_V: Floats, limit: float) -> float:
    """Return the area of overlap per region over false alarms up to *limit*, 1 being perfect.

    Source: https://arxiv.org/abs/1911.02357.
    """
    normal_V = shares_V == 0
    if normal_V.all() or not normal_V.any():
        return float("nan")
    order_V = np.argsort(-scores_V, kind="stable")
    last_T = np.flatnonzero(np.append(np.diff(scores_V[order_V]) != 0, True))
    overlap_T = np.append(0, np.cumsum(shares_V[order_V])[last_T] / shares_V.sum())
    alarms_T = np.append(0, np.cumsum(normal_V[order_V])[last_T] / normal_V.sum())
    return _area(alarms_T[1:], overlap_T[1:], limit)


def _must_fit(scores: NDArray[Any], truth: NDArray[Any]) -> None:
    if scores.shape[1:] != truth.shape[1:] or (scores.ndim > 2 and len(scores) != len(truth)):
        raise DataError(
            f"scores of shape {scores.shape} do not fit a truth of {truth.shape}: give one score "
            "for each image, or one map of each mask's shape."
        )
    if not np.isfinite(scores).all():
        raise DataError("scores hold NaN or infinite entries: the model behind them is broken.")
