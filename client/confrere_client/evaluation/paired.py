"""Intervals over patients for any figure, and tests between arms that saw the same patients.

What can be weighed by image gets an interval from ``measure.intervals``: a mean over cases, an
average precision over boxes, a ranking. A *weighed* value is a function ``weights_DN -> values_D``
that says what the figure is when image n counts ``weights_DN[:, n]`` times.

The test is a permutation test: if two arms were the same, which of them answered for a patient
would be a coin's toss, so the arms of whole patients are swapped at random and the difference is
measured again (https://doi.org/10.1214/088342304000000396). It needs no distribution and no
independent images, and works for every measure that weighs images. Where a measure ranks images
against each other, scores are turned into ranks within their arm first, as two networks' need not
have one scale (https://doi.org/10.1093/biomet/83.4.835): simulated trials in the tests hold its
level and its power, and show what is lost without ranks.

Shapes: D draws, S seeds, N images, K classes, P patients, R swaps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.measure.intervals import (
    CHUNK_ENTRIES,
    Figure,
    Floats,
    Measure,
    Truth,
    figure,
    paired_difference,
)

Weighed: TypeAlias = Callable[[Floats], Floats]
"""``weights_DN -> values_D``, 0 to 1, or NaN where nothing is known."""

SWAPS = 999
"""Random swaps: the smallest p is 1/1000."""


def weighed_figure(
    seeds: Sequence[Weighed], patients: NDArray[np.int64], *, seed: int = 0
) -> Figure | None:
    """Return the mean over *seeds* of what can be weighed, with its interval over patients."""
    measured = [one.values_N for one in seeds if isinstance(one, InUnits)]
    if measured:
        return _in_their_unit(measured, patients, seed)
    measure, scores, truth = _in_place_of_scores(seeds, patients)
    return figure(measure, scores, truth, seed=seed)


def _in_their_unit(
    values_SN: Sequence[Floats], patients: NDArray[np.int64], seed: int
) -> Figure | None:
    """Return the mean over cases and seeds in the unit of the values: intervals are of shares."""
    known = np.concatenate([values_N[np.isfinite(values_N)] for values_N in values_SN])
    unit = float(known.max(initial=1.0))
    shares = [weighed_mean(values_N / unit) for values_N in values_SN]
    found = weighed_figure(shares, patients, seed=seed)
    if found is None:
        return None
    return Figure(mean=unit * found.mean, low=unit * found.low, high=unit * found.high, n=found.n)


def weighed_difference(
    ours: Sequence[Weighed],
    theirs: Sequence[Weighed],
    patients: NDArray[np.int64],
    *,
    seed: int = 0,
) -> Figure | None:
    """Return how much larger *ours* is than *theirs* for the same patients, with its interval."""
    measure, scores, truth = _in_place_of_scores([*ours, *theirs], patients)
    mine, other = scores[: len(ours)], scores[len(ours) :]
    return paired_difference(measure, mine, other, truth, seed=seed)


def _in_place_of_scores(
    seeds: Sequence[Weighed], patients: NDArray[np.int64]
) -> tuple[Measure, Floats, Truth]:
    """Return what ``figure`` takes: scores that only say which function of *seeds* to ask."""
    numbers_S11 = np.arange(len(seeds), dtype=np.float64)[:, None, None]
    scores_SN1 = np.broadcast_to(numbers_S11, (len(seeds), len(patients), 1))

    def measure(scores_N1: Floats, _: NDArray[np.int64], weights_DN: Floats) -> Floats:
        return seeds[int(scores_N1[0, 0])](weights_DN)

    return measure, scores_SN1, Truth(labels=np.zeros_like(patients), patients=patients)


def weighed_mean(values_N: Floats) -> Weighed:
    """Return the mean over cases; a NaN case has no part in it."""
    known_N = np.isfinite(values_N)
    filled_N = np.where(known_N, values_N, 0.0)

    def mean(weights_DN: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(weights_DN @ filled_N / (weights_DN @ known_N))

    return mean


@dataclass(frozen=True, kw_only=True, eq=False)
class InUnits:
    """The mean over cases of what is no share from 0 to 1, but has a unit: millimetres."""

    values_N: Floats
    """From 0 on; a NaN case has no part in it."""

    def __call__(self, weights_DN: Floats) -> Floats:
        """Return the mean for each row of weights."""
        return weighed_mean(self.values_N)(weights_DN)


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """How a measure of single cases lies; NaN where it is defined of none."""

    lower: float
    median: float
    upper: float


def quartiles(values_SN: Floats) -> Quartiles:
    """Return the quartiles of cases, each the mean over seeds; NaN in one leaves a case out."""
    values_N = np.asarray(values_SN, np.float64).mean(axis=0)
    known_N = values_N[np.isfinite(values_N)]
    lower, median, upper = np.percentile(known_N, (25, 50, 75)) if len(known_N) else [np.nan] * 3
    return Quartiles(lower=float(lower), median=float(median), upper=float(upper))


def swap_test(
    both: Sequence[Weighed], patients: NDArray[np.int64], *, swaps: int = SWAPS, seed: int = 0
) -> float:
    """Return p, two-sided, that arms as alike as these two would differ as much as they do.

    Each of *both*, one a seed, weighs 2 N answers: ours for each image, then theirs. A patient is
    swapped in all seeds at once, so p is of these very networks, whose figures are averaged: it
    tells how patients vary, not how a repeated training would. NaN where nothing is known.
    """
    _, owner_N = np.unique(patients, return_inverse=True)
    if not len(owner_N):
        return float("nan")
    generator = np.random.default_rng(seed)
    tosses_RP = generator.random((swaps + 1, int(owner_N.max()) + 1)) < 0.5
    tosses_RP[0] = False
    step = max(1, CHUNK_ENTRIES // (2 * len(owner_N)))
    parts = [
        _differences(both, tosses_RP[start : start + step, owner_N].astype(np.float64))
        for start in range(0, swaps + 1, step)
    ]
    seen, *swapped = np.concatenate(parts).tolist()
    return _p_value(seen, np.asarray(swapped))


def _differences(both: Sequence[Weighed], swapped_RN: Floats) -> Floats:
    """Return how much larger ours is than theirs, the mean over seeds, where some are swapped."""
    ours = np.concatenate([1 - swapped_RN, swapped_RN], axis=1)
    theirs = np.concatenate([swapped_RN, 1 - swapped_RN], axis=1)
    return np.asarray(np.mean([value(ours) - value(theirs) for value in both], axis=0))


def ranks(values_N: Floats) -> Floats:
    """Return places from the top, which is 0, downwards: -1, -2; equal values share their mean."""
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    places = np.cumsum(counts) - (counts - 1) / 2 - len(values_N)
    return np.asarray(places[place_N], np.float64)


def holm(p_values: Mapping[str, float]) -> Mapping[str, float]:
    """Return p values that stand when all are looked at together (Holm's step-down).

    One that is NaN stays so and counts for none. https://www.jstor.org/stable/4615733.
    """
    known = sorted((p, name) for name, p in p_values.items() if np.isfinite(p))
    adjusted = {name: p for name, p in p_values.items() if not np.isfinite(p)}
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = highest
    return adjusted


def _p_value(seen: float, swapped_R: Floats) -> float:
    """Count the arrangement that was seen among the swapped ones, so that p is never 0."""
    swapped_R = swapped_R[np.isfinite(swapped_R)]
    if not np.isfinite(seen) or not len(swapped_R):
        return float("nan")
    as_large = np.abs(swapped_R) >= abs(seen) - 1e-12
    return float((1 + as_large.sum()) / (1 + len(swapped_R)))
