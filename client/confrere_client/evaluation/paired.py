"""Intervals over patients for any figure, and tests between arms that saw the same patients.

What can be weighed by image gets an interval from ``measure.intervals``: a mean over cases, an
average precision over boxes, a ranking. A *weighed* value is a function ``weights_DN -> values_D``
that says what the figure is when image n counts ``weights_DN[:, n]`` times.

The test is a permutation test: if two arms were the same, which of them answered for a patient
would be a coin's toss, so the arms of whole patients are swapped at random and the difference is
measured again (https://doi.org/10.1214/088342304000000396). It needs no distribution and no
independent images, and works for every measure.

Shapes: D draws, S seeds, N images, K classes, P patients, R swaps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.measure.intervals import (
    Figure,
    Floats,
    Measure,
    Truth,
    figure,
    paired_difference,
)
from confrere_common.errors import DataError

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
        return case_figure(np.stack(measured), patients, seed=seed)
    measure, scores, truth = _in_place_of_scores(seeds, patients)
    return figure(measure, scores, truth, seed=seed)


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
class Spread:
    """How a measure of single cases lies: its mean with an interval, median and quartiles."""

    mean: Figure | None
    median: float
    lower_quartile: float
    upper_quartile: float
    cases: int
    """Cases where the measure is defined."""


def spread(values_SN: Floats, patients: NDArray[np.int64], *, seed: int = 0) -> Spread:
    """Return how the values of cases lie; seeds are averaged for median and quartiles.

    Values need not lie in 0 to 1: they are measured in units of the largest, which no mean exceeds.
    """
    values_SN = np.atleast_2d(np.asarray(values_SN, np.float64))
    if values_SN.shape[1] != len(patients):
        raise DataError(f"{values_SN.shape[1]} values do not fit {len(patients)} patients' cases.")
    known_N = np.isfinite(values_SN).all(axis=0)
    if not known_N.any():
        nothing = float("nan")
        return Spread(
            mean=None, median=nothing, lower_quartile=nothing, upper_quartile=nothing, cases=0
        )
    quartiles = np.percentile(values_SN[:, known_N].mean(axis=0), (25, 50, 75))
    return Spread(
        mean=case_figure(values_SN, patients, seed=seed),
        lower_quartile=float(quartiles[0]),
        median=float(quartiles[1]),
        upper_quartile=float(quartiles[2]),
        cases=int(known_N.sum()),
    )


def case_figure(values_SN: Floats, patients: NDArray[np.int64], *, seed: int = 0) -> Figure | None:
    """Return the mean over cases and seeds with its interval over patients, in the values' unit."""
    unit = _unit(values_SN)
    seeds = [weighed_mean(values_N / unit) for values_N in np.atleast_2d(values_SN)]
    return _in_units(weighed_figure(seeds, patients, seed=seed), unit)


def case_difference(
    ours_SN: Floats, theirs_SN: Floats, patients: NDArray[np.int64], *, seed: int = 0
) -> Figure | None:
    """Return the mean paired difference over cases, with its interval over patients.

    A case that either arm leaves undefined has no part in it.
    """
    ours_SN, theirs_SN = np.atleast_2d(ours_SN), np.atleast_2d(theirs_SN)
    known_N = np.isfinite(ours_SN).all(axis=0) & np.isfinite(theirs_SN).all(axis=0)
    unit = _unit(np.concatenate([ours_SN, theirs_SN])[:, known_N])
    mine, other = (
        [weighed_mean(np.where(known_N, values_N, np.nan) / unit) for values_N in arm_SN]
        for arm_SN in (ours_SN, theirs_SN)
    )
    return _in_units(weighed_difference(mine, other, patients, seed=seed), unit)


def _unit(values: Floats) -> float:
    """Return the largest value, at least 1; DataError for a value that is negative."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() < 0:
        raise DataError(f"a case has the value {known.min():.3g}: only measures from 0 on serve.")
    return max(1.0, float(known.max())) if len(known) else 1.0


def _in_units(found: Figure | None, unit: float) -> Figure | None:
    if found is None:
        return None
    return Figure(mean=found.mean * unit, low=found.low * unit, high=found.high * unit, n=found.n)


def swap_test(
    measure: Measure,
    ours: Floats,
    theirs: Floats,
    truth: Truth,
    *,
    swaps: int = SWAPS,
    seed: int = 0,
) -> float:
    """Return p, two-sided, that arms as alike as these two would differ as much as they do.

    *ours* and *theirs* are scores (S, N, K) of the same images by equally many seeds. NaN where the
    measure is not defined.
    """
    ours_SNK, theirs_SNK = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours_SNK.shape != theirs_SNK.shape or ours_SNK.shape[1:2] != truth.labels.shape[:1]:
        raise DataError(
            f"scores of shapes {ours_SNK.shape} and {theirs_SNK.shape} cannot be swapped for "
            f"{len(truth.labels)} images: give both as (seeds, images, classes), with equal seeds."
        )

    def difference(swapped_N: NDArray[np.bool_]) -> float:
        where_N1 = swapped_N[:, None]
        mine_SNK = np.where(where_N1, theirs_SNK, ours_SNK)
        other_SNK = np.where(where_N1, ours_SNK, theirs_SNK)
        return _mean(measure, mine_SNK, truth) - _mean(measure, other_SNK, truth)

    _, owner_N = np.unique(truth.patients, return_inverse=True)
    generator = np.random.default_rng(seed)
    tosses_RP = generator.random((swaps, int(owner_N.max()) + 1)) < 0.5
    seen = difference(np.zeros(len(owner_N), np.bool_))
    return _p_value(seen, np.asarray([difference(toss_P[owner_N]) for toss_P in tosses_RP]))


def case_test(
    ours_N: Floats,
    theirs_N: Floats,
    patients: NDArray[np.int64],
    *,
    swaps: int = SWAPS,
    seed: int = 0,
) -> float:
    """Return p, two-sided, for the mean of single cases (Dice, HD95, AP of a query)."""
    gain_N = np.asarray(ours_N, np.float64) - np.asarray(theirs_N, np.float64)
    known_N = np.isfinite(gain_N)
    _, owner_N = np.unique(patients[known_N], return_inverse=True)
    if not len(owner_N):
        return float("nan")
    gain_P = np.bincount(owner_N, gain_N[known_N])
    signs_RP = np.random.default_rng(seed).choice([-1.0, 1.0], size=(swaps, len(gain_P)))
    return _p_value(float(gain_P.sum()), signs_RP @ gain_P)


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


def _mean(measure: Measure, scores_SNK: Floats, truth: Truth) -> float:
    ones_1N = np.ones((1, len(truth.labels)))
    return float(np.mean([measure(each, truth.labels, ones_1N)[0] for each in scores_SNK]))


def _p_value(seen: float, swapped_R: Floats) -> float:
    """Count the arrangement that was seen among the swapped ones, so that p is never 0."""
    swapped_R = swapped_R[np.isfinite(swapped_R)]
    if not np.isfinite(seen) or not len(swapped_R):
        return float("nan")
    as_large = np.abs(swapped_R) >= abs(seen) - 1e-12
    return float((1 + as_large.sum()) / (1 + len(swapped_R)))
