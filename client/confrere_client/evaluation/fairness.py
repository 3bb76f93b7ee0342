"""Whom a model serves worse: by site, and by sex and age band, with small groups suppressed.

Conventions: a group without a figure (one class only, no patient) takes no part. A group of fewer
patients than the smallest cell is suppressed: neither its figure nor its size is told. Where the
suppressed groups are one alone, or too few patients together, the smallest of the others go too, as
the total would give them away (complementary suppression).

Shapes: N images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.paired import Weighed, weighed_difference, weighed_figure
from confrere_client.measure.intervals import Figure, Floats

SMALLEST = 10
"""Patients below which a group is not spoken of, where the site says nothing else."""
BANDS = (0, 18, 40, 60, 80)
"""Years of age at which a band begins; the last one is open."""


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """How evenly a measure of 0 to 1, more being better, is shared among groups."""

    worst: str
    """The group that is served worst."""

    lowest: float
    gap: float
    """Between the best and the worst group."""

    deviation: float
    jain: float
    """Jain's index: 1 when all are served alike, 1 over the number of groups when only one is
    (https://arxiv.org/abs/cs/9809099)."""

    groups: int


def fairness(values: Mapping[str, float]) -> Fairness | None:
    """Return how evenly the figures of groups lie; None where fewer than two are known."""
    known = {name: value for name, value in values.items() if np.isfinite(value)}
    if len(known) < 2:
        return None
    each = np.asarray(list(known.values()), np.float64)
    squares = float(np.square(each).sum())
    return Fairness(
        worst=min(known, key=lambda name: known[name]),
        lowest=float(each.min()),
        gap=float(each.max() - each.min()),
        deviation=float(each.std()),
        jain=float(each.sum()) ** 2 / (len(each) * squares) if squares else 1.0,
        groups=len(each),
    )


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Whether taking part pays: federated minus the site's own model, on the site's patients."""

    gains: Mapping[str, Figure]
    """Site -> paired difference with its interval over the site's patients."""

    losing: tuple[str, ...]
    """Sites that are worse off, whatever the interval."""

    surely_losing: tuple[str, ...]
    """Sites whose whole interval lies below 0."""

    surely_gaining: tuple[str, ...]
    """Sites whose whole interval lies above 0."""


Both: TypeAlias = Callable[[str, NDArray[np.int64]], tuple[Sequence[Weighed], Sequence[Weighed]]]
"""Site, and its rows among the images -> the federated figure and the site's own, one a seed."""


def joining(
    both: Both,
    patients_N: NDArray[np.int64],
    sites_N: NDArray[np.str_],
    *,
    smallest: int,
    seed: int = 0,
) -> Joining:
    """Return whether joining pays for each site of images, "" being none.

    A site of fewer than *smallest* patients is absent, as is one whose figure is not defined. Each
    interval is of one site by itself: of twenty that gain nothing, one is sure by chance.
    """
    gains: dict[str, Figure] = {}
    for site in map(str, np.unique(sites_N[sites_N != ""])):
        rows = np.flatnonzero(sites_N == site)
        if len(np.unique(patients_N[rows])) < smallest:
            continue
        found = weighed_difference(*both(site, rows), patients_N[rows], seed=seed)
        if found is not None:
            gains[site] = found
    return Joining(
        gains=gains,
        losing=tuple(site for site, gain in gains.items() if gain.mean < 0),
        surely_losing=tuple(site for site, gain in gains.items() if gain.high < 0),
        surely_gaining=tuple(site for site, gain in gains.items() if gain.low > 0),
    )


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What may be said of groups of patients."""

    figures: Mapping[str, Figure]
    patients: Mapping[str, int]
    """Patients of each group that is spoken of."""

    suppressed: tuple[str, ...]
    """Groups too small to speak of, or that would give such a one away."""

    fairness: Fairness | None


def by_group(
    within: Callable[[NDArray[np.int64]], Sequence[Weighed]],
    patients_N: NDArray[np.int64],
    groups_N: NDArray[np.str_],
    *,
    smallest: int = SMALLEST,
    seed: int = 0,
) -> Groups:
    """Return the figures of groups of images, "" being none; *within* has one a seed for rows.

    Guarantee: neither figure nor size is told of a group of fewer than *smallest* patients, and
    where any group is told, what is left of the total is no group by itself, nor fewer than that.
    """
    patients = {
        str(name): len(np.unique(patients_N[groups_N == name]))
        for name in np.unique(groups_N[groups_N != ""])
    }
    hidden = suppressed(patients, smallest)
    figures: dict[str, Figure] = {}
    for name in sorted(patients.keys() - set(hidden)):
        rows = np.flatnonzero(groups_N == name)
        found = weighed_figure(within(rows), patients_N[rows], seed=seed)
        if found is not None:
            figures[name] = found
    return Groups(
        figures=figures,
        patients={name: count for name, count in patients.items() if name not in hidden},
        suppressed=hidden,
        fairness=fairness({name: of.mean for name, of in figures.items()}),
    )


def suppressed(patients: Mapping[str, int], smallest: int) -> tuple[str, ...]:
    """Return the groups that must not be spoken of, sorted."""
    hidden = [name for name, count in patients.items() if count < smallest]
    others = sorted((count, name) for name, count in patients.items() if count >= smallest)
    rest = sum(patients[name] for name in hidden)
    while hidden and others and (len(hidden) < 2 or rest < smallest):
        count, name = others.pop(0)
        hidden.append(name)
        rest += count
    return tuple(sorted(hidden))


def age_bands(years_N: Floats) -> NDArray[np.str_]:
    """Return the band of each age, such as "40-59"; "" where it is not known or not 0 to 120."""
    known_N = np.isfinite(years_N) & (years_N >= 0) & (years_N <= 120)
    last = [*(f"{low}-{high - 1}" for low, high in pairwise(BANDS)), "80+"]
    places_N = np.searchsorted(BANDS, np.where(known_N, years_N, 0), side="right") - 1
    return np.where(known_N, np.asarray(last)[places_N], "")
