"""Drawings over rounds: the loss and the health of the representation, of each site or of all.

Legend: S sites, R rounds.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_deploy.report.schema import Round, RoundSite
from confrere_deploy.report.svg import ALARM, BLUE, HUES, INK, draw, whole_rounds
from confrere_deploy.report.words import shorten

if TYPE_CHECKING:
    from matplotlib import figure as canvas
    from matplotlib.axes import Axes

Pick: TypeAlias = Callable[[RoundSite], float | None]

HEALTH = {
    "rankme": "RankMe: directions in use",
    "feature_std": "Feature std: spread of features",
    "uniformity": "Uniformity: lower is more even",
    "alignment": "Alignment: lower is closer views",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One measure of every site over the rounds, the mean over repetitions."""

    sites: tuple[str, ...]
    rounds: tuple[int, ...]
    values: NDArray[np.float64]
    """Shape (S, R); NaN where a site was not asked or had no value."""


def series(rounds: Sequence[Round], pick: Pick) -> Series:
    """Gather one measure of every site that has it, ordered by name as the map's colours are."""
    found: defaultdict[str, defaultdict[int, list[float]]]
    found = defaultdict(lambda: defaultdict(list))
    for each in rounds:
        for site in each.sites:
            value = pick(site)
            if value is not None:
                found[site.site][each.round].append(value)
    numbers = sorted({each.round for each in rounds})
    values_SR = np.array(
        [
            [float(np.mean(of.get(number, np.nan))) for number in numbers]
            for _, of in sorted(found.items())
        ]
    ).reshape(len(found), len(numbers))
    return Series(sites=tuple(sorted(found)), rounds=tuple(numbers), values=values_SR)


def metric(name: str) -> Pick:
    """Return what picks the metric *name* of a site."""
    return lambda site: site.metrics.get(name)


def loss(rounds: Sequence[Round]) -> str:
    """Draw the loss of each site and of the federation over rounds; empty without rounds."""
    joined = federation_loss(rounds)
    lost = [each.round for each in rounds for site in each.sites if site.refused is not None]
    if not joined and not lost:
        return ""
    of_sites = series(rounds, lambda site: site.loss)

    def paint(page: "canvas.Figure") -> None:
        axes = page.subplots()
        _lines(axes, of_sites)
        numbers = list(joined)
        heights = list(joined.values())
        axes.plot(numbers, heights, color=INK, lw=2.4, label="federation", **_dots(numbers))
        if lost:
            foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            label = "an update left out"
            axes.plot(lost, [0.0] * len(lost), "x", color=ALARM, ms=6, label=label, **foot)
        axes.set_title("Training loss")
        whole_rounds(axes, numbers + lost)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return draw("loss", _told(joined), (9.5, 3.1), paint)


def federation_loss(rounds: Sequence[Round]) -> dict[int, float]:
    """Return round -> the federation's loss, the mean over the repetitions that have one."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for each in rounds:
        if each.loss is not None:
            found[each.round].append(each.loss)
    return {number: float(np.mean(found[number])) for number in sorted(found)}


def health(rounds: Sequence[Round]) -> str:
    """Draw what is known of the features' health over rounds, alarms marked; empty if nothing."""
    panels = [(name, title, series(rounds, metric(name))) for name, title in HEALTH.items()]
    panels = [panel for panel in panels if panel[2].sites]
    if not panels:
        return ""
    alarms = {name: alarm_points(rounds, name) for name in HEALTH}
    alt = "Health of the features over rounds. " + ". ".join(
        f"{title}: {np.nanmean(values.values[:, -1]):.3g} in the last round, "
        f"{len(alarms[name])} alarms"
        for name, title, values in panels
        if np.isfinite(values.values[:, -1]).any()
    )

    def paint(page: "canvas.Figure") -> None:
        grid = page.subplots((len(panels) + 1) // 2, 2, squeeze=False).flatten()
        for axes, (name, title, values) in zip(grid, panels, strict=False):
            _lines(axes, values)
            if alarms[name]:
                at, height = zip(*alarms[name], strict=True)
                axes.plot(at, height, "X", color=ALARM, ms=8, label="alarm", zorder=5)
            axes.set_title(title)
            whole_rounds(axes, values.rounds)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        # Each label once, though it comes in several panels.
        named = {
            label: handle
            for axes in grid
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        page.legend(named.values(), named.keys(), loc="outside lower center", ncols=6)

    return draw("health", alt, (9.5, 0.6 + 2.4 * ((len(panels) + 1) // 2)), paint)


def alarm_points(rounds: Sequence[Round], name: str) -> list[tuple[int, float]]:
    """Return round and value wherever the metric *name* of a site raised an alarm."""
    return [
        (each.round, value)
        for each in rounds
        for site in each.sites
        if name in map(alarm_metric, site.alarms or ())
        and (value := site.metrics.get(name)) is not None
    ]


def alarm_metric(alarm: str) -> str:
    """Return the metric that an alarm speaks of: the alarm itself, or the word it begins with."""
    return alarm.partition(" ")[0]


def _lines(axes: "Axes", of: Series) -> None:
    """Draw a line for each site, or when there are many, their middle and their spread."""
    if len(of.sites) > len(HUES):
        _spread(axes, of)
        return
    for site, hue, values_R in zip(of.sites, HUES, of.values, strict=False):
        known = np.isfinite(values_R)
        at = np.array(of.rounds)[known]
        # A leading underscore would hide the name from the legend.
        label = " " + shorten(site)
        axes.plot(at, values_R[known], color=hue, lw=1.6, label=label, **_dots(at.tolist()))


def _spread(axes: "Axes", of: Series) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")
        low, middle, high = np.nanpercentile(of.values, [10, 50, 90], axis=0)
    at = np.array(of.rounds)
    count = f"{len(of.sites):,} sites"
    axes.fill_between(at, low, high, color=BLUE, alpha=0.2, lw=0, label=f"8 in 10 of {count}")
    axes.plot(at, middle, color=BLUE, lw=1.8, label=f"median of {count}", **_dots(of.rounds))


def _dots(rounds: Sequence[int]) -> dict[str, Any]:
    """Mark each round while there are few; a lone round would else be an invisible line."""
    return {"marker": "o", "markersize": 3.5} if len(rounds) <= 25 else {}


def _told(joined: Mapping[int, float]) -> str:
    if not joined:
        return "Training loss: no round closed with a finite loss."
    first, last = min(joined), max(joined)
    begin, end = joined[first], joined[last]
    return f"Training loss of the federation: {begin:.4g} in round {first}, {end:.4g} in {last}."
