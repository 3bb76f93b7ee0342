"""How sure a figure is: intervals over patients and over seeds, all draws at once.

Patients are drawn with replacement and bring all their images (percentile bootstrap), so an image
counts in a draw as often as its patient was drawn. Every seed is measured on the same patients in
the same draw.

A few seeds need care: drawing S seeds with replacement shows only (S-1)/S of their variance (a
third is missing at S = 3), and a variance from so few values is itself unsure. So seeds are not
drawn: the variance of their mean, s²/S with s² over S-1, is added to the variance over patients,
and Student's t takes the place of 1.96, with the degrees of freedom of Welch and Satterthwaite
(https://doi.org/10.2307/3002019). Each side of the percentile interval is widened by itself (in
squares, as in https://doi.org/10.1002/sim.3095), so it keeps its asymmetry. s² holds a little of
the patients' variance too. On simulated trials (100 patients, accuracy near 0.7, seeds that deviate
by nothing to far more than patients do) the truth lay inside in 92 to 95 % at S = 3, 93 to 97 % at
S = 5 and 89 to 97 % at S = 2; one seed alone cannot know, and fell to 38 %.

Shapes: D draws, S seeds, M models that one seed trained (a local-only arm has one for each site; a
figure is their mean), N images, K classes, P patients.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from confrere_common.errors import DataError

Floats: TypeAlias = NDArray[np.float64]
Measure: TypeAlias = Callable[[Floats, NDArray[np.int64], Floats], Floats]
"""``(scores_NK, labels_N, weights_DN) -> values_D``, 0 to 1, or NaN where nothing is known."""

DRAWS = 1000
TAILS = (2.5, 97.5)
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution: what Student's t tends to."""
SAME = 1e-20
"""A variance below it is rounding: the seeds gave the same scores."""
CHUNK_ENTRIES = 2_000_000
"""Weights held at once (16 MB): memory does not grow with the number of draws."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Seeds behind the mean."""

    def as_dict(self) -> dict[str, float | int]:
        """Return the plain form that a report holds."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of the test images, in the order of every score."""

    labels: NDArray[np.int64]
    patients: NDArray[np.int64]

    def at(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Truth":
        """Return the truth of some images only."""
        return Truth(labels=self.labels[rows], patients=self.patients[rows])


def figure(measure: Measure, scores: Floats, truth: Truth, *, seed: int = 0) -> Figure | None:
    """Return the mean over seeds of *measure* with its interval; None where it is undefined.

    *scores* is (S, N, K) or (S, M, N, K). The same seed gives the same draws.
    """
    scores_SMNK = _seeds_first(scores, truth)
    points, drawn = _points(measure, scores_SMNK, truth), _drawn(measure, scores_SMNK, truth, seed)
    return _of_one(_joined(points, drawn, (0.0, 1.0)), truth, (0.0, 1.0))


def paired_difference(
    measure: Measure, ours: Floats, theirs: Floats, truth: Truth, *, seed: int = 0
) -> Figure | None:
    """Return how much better *ours* is than *theirs* on the same images, with its interval.

    Both arms meet the same patients in every draw, and seed s of one meets seed s of the other; an
    arm of one seed (raw pixels) meets every seed of the other. Zero outside the interval says that
    the arms differ.
    """
    ours_SMNK, theirs_SMNK = _seeds_first(ours, truth), _seeds_first(theirs, truth)
    if len(ours_SMNK) != len(theirs_SMNK) and 1 not in (len(ours_SMNK), len(theirs_SMNK)):
        raise DataError(
            f"an arm of {len(ours_SMNK)} seeds cannot be paired with one of {len(theirs_SMNK)}: "
            "give both arms the same seeds, or one of them a single one."
        )
    points = _points(measure, ours_SMNK, truth) - _points(measure, theirs_SMNK, truth)
    drawn = _drawn(measure, ours_SMNK, truth, seed) - _drawn(measure, theirs_SMNK, truth, seed)
    return _of_one(_joined(points, drawn, (-1.0, 1.0)), truth, (-1.0, 1.0))


def by_site(
    measure: Measure,
    scores: Floats,
    truth: Truth,
    sites: NDArray[np.str_],
    *,
    own: Sequence[str] = (),
    seed: int = 0,
) -> Mapping[str, Figure]:
    """Return each named site's figure on its own images; where it is undefined it is absent.

    *own* says that model m of (S, M, N, K) is the site's of that name: a site is then measured by
    its own model alone, and absent when it has none.
    """
    figures: dict[str, Figure] = {}
    models = {site: [number] for number, site in enumerate(own)}
    for site in np.unique(sites[sites != ""]):
        if own and site not in models:
            continue
        ours, its = sites == site, scores[:, models[site]] if own else scores
        found = figure(measure, its[..., ours, :], truth.at(ours), seed=seed)
        if found is not None:
            figures[str(site)] = found
    return figures


def patient_weights(patients: NDArray[np.int64], draws: int, seed: int) -> Floats:
    """Return how often each image counts in each draw of patients, shape (D, N)."""
    _, owner_N = np.unique(patients, return_inverse=True)
    count = int(owner_N.max()) + 1
    generator = np.random.default_rng(seed)
    times_DP = generator.multinomial(count, np.full(count, 1 / count), size=draws)
    return times_DP[:, owner_N].astype(np.float64)


def _seeds_first(scores: Floats, truth: Truth) -> Floats:
    """Return scores as (S, M, N, K) in float64; DataError unless they fit the truth."""
    scores_SMNK = np.asarray(scores, np.float64)
    if scores_SMNK.ndim == 3:
        scores_SMNK = scores_SMNK[:, None]
    images = len(truth.labels)
    if scores_SMNK.ndim != 4 or scores_SMNK.shape[2] != images or scores_SMNK.size == 0:
        raise DataError(
            f"scores of shape {np.shape(scores)} do not fit {images} test images: "
            "give (seeds, images, classes) or (seeds, models, images, classes), none of them 0."
        )
    if not np.isfinite(scores_SMNK).all():
        raise DataError("scores hold NaN or infinite entries: the model behind them is broken.")
    return scores_SMNK


def _points(measure: Measure, scores_SMNK: Floats, truth: Truth) -> Floats:
    """Return the measure of each seed on the test set as it is, shape (S,)."""
    return _mean_of_models(measure, scores_SMNK, truth, np.ones((1, len(truth.labels))))[:, 0]


def _drawn(measure: Measure, scores_SMNK: Floats, truth: Truth, seed: int) -> Floats:
    """Return the measure of each seed in each draw of patients, shape (S, D)."""
    weights_DN = patient_weights(truth.patients, DRAWS, seed)
    step = max(1, CHUNK_ENTRIES // max(1, len(truth.labels)))
    chunks = (weights_DN[start : start + step] for start in range(0, DRAWS, step))
    parts = [_mean_of_models(measure, scores_SMNK, truth, chunk_DN) for chunk_DN in chunks]
    return np.concatenate(parts, axis=1)


def _mean_of_models(
    measure: Measure, scores_SMNK: Floats, truth: Truth, weights_DN: Floats
) -> Floats:
    values_SMD = [
        [measure(scores_NK, truth.labels, weights_DN) for scores_NK in scores_MNK]
        for scores_MNK in scores_SMNK
    ]
    return np.asarray(np.mean(values_SMD, axis=1))


def _joined(points_S: Floats, drawn_SD: Floats, limits: tuple[float, float]) -> Figure | None:
    """Return the mean of *points_S* with the interval that patients and seeds give together."""
    mean_D = drawn_SD.mean(axis=0)
    mean_D = mean_D[np.isfinite(mean_D)]
    if not np.isfinite(points_S).all() or not len(mean_D):
        return None
    mean = float(points_S.mean())
    low, high = (float(value) for value in np.percentile(mean_D, TAILS))
    widen = _widening(points_S, float(mean_D.var()))
    low, high = mean - widen(max(0.0, mean - low)), mean + widen(max(0.0, high - mean))
    return Figure(mean=mean, low=max(low, limits[0]), high=min(high, limits[1]), n=len(points_S))


def _of_one(found: Figure | None, truth: Truth, limits: tuple[float, float]) -> Figure | None:
    """Return *found*; of a single patient, whom every draw is, anything may be true of others."""
    if found is None or len(np.unique(truth.patients)) > 1:
        return found
    return Figure(mean=found.mean, low=limits[0], high=limits[1], n=found.n)


def _widening(points_S: Floats, over_patients: float) -> Callable[[float], float]:
    """Return what makes one side of an interval over patients hold the seeds' variance as well."""
    seeds = len(points_S)
    over_seeds = float(points_S.var(ddof=1)) / seeds if seeds > 1 else 0.0
    if over_seeds <= SAME:
        return lambda side: side
    freedom = (seeds - 1) * (1 + over_patients / over_seeds) ** 2
    quantile = float(stdtrit(freedom, TAILS[1] / 100))  # Student's t; scipy.stats is slow to load
    return lambda side: quantile * math.hypot(side / NORMAL, math.sqrt(over_seeds))
