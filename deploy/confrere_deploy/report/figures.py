"""Drawings of results and of the map: arms with their intervals, sites, images as points."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_deploy.report.joined import SITES_DRAWN, differences, ordered
from confrere_deploy.report.pictures import Floats, Pictures
from confrere_deploy.report.schema import ARMS, FLOORS, Arm, ArmName, Figure, Report, SiteArm
from confrere_deploy.report.svg import ALARM, BLUE, GREY, HUES, INK, MUTED, draw
from confrere_deploy.report.words import ARM_NAMES, shorten, spoken

if TYPE_CHECKING:
    from matplotlib import figure as canvas
    from matplotlib.axes import Axes

Pick: TypeAlias = Callable[[Arm | SiteArm], Figure | None]
KINDS_DRAWN = 7


def auc(arm: Arm | SiteArm) -> Figure | None:
    """Return the linear probe's AUC, if there is one."""
    return arm.linear.auc if arm.linear else None


def knn_accuracy(arm: Arm | SiteArm) -> Figure | None:
    """Return the accuracy of 20 neighbours, if there is one."""
    return arm.knn.accuracy if arm.knn else None


MEASURES: tuple[tuple[str, Pick], ...] = (
    ("AUC of a linear classifier", auc),
    ("Accuracy of 20 nearest neighbours", knn_accuracy),
)


def arms(report: Report) -> str:
    """Draw each arm's figures as dots with intervals, floors shaded; empty without figures."""
    panels = [(title, picked(report, pick)) for title, pick in MEASURES]
    panels = [(title, figures) for title, figures in panels if figures]
    rows = [name for name in ARMS if any(name in figures for _, figures in panels)]
    if not panels:
        return ""
    alt = " ".join(
        f"{title}: " + ", ".join(f"{ARM_NAMES[arm]} {spoken(f)}" for arm, f in figures.items())
        for title, figures in panels
    )

    def paint(page: "canvas.Figure") -> None:
        columns = page.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, figures) in zip(columns, panels, strict=True):
            axes.set_yticks(range(len(rows)), [ARM_NAMES[name] for name in rows])
            _dots(axes, title, figures, rows)

    return draw("arms", alt, (4.6 * len(panels), 0.8 + 0.4 * len(rows)), paint)


def picked(report: Report, pick: Pick) -> dict[ArmName, Figure]:
    """Return arm -> its figure, floors first, for the arms that have it."""
    found = {name: pick(report.arms[name]) for name in ARMS if name in report.arms}
    return {name: figure for name, figure in found.items() if figure is not None}


def _dots(
    axes: "Axes", title: str, figures: Mapping[ArmName, Figure], rows: Sequence[ArmName]
) -> None:
    floors = [figure.mean for name, figure in figures.items() if name in FLOORS]
    for name, figure in figures.items():
        row = rows.index(name)
        ours = name == "federated"
        colour = BLUE if ours else GREY if name in FLOORS else INK
        axes.plot([figure.low, figure.high], [row, row], color=colour, lw=2.6 if ours else 1.8)
        axes.plot([figure.mean], [row], "o", color=colour, ms=8 if ours else 6)
        label = axes.annotate(
            spoken(figure), (1.02, row), xycoords=axes.get_yaxis_transform(), va="center"
        )
        label.set(fontsize=9, color=INK, fontweight="bold" if ours else "normal")
    lowest = min(figure.low for figure in figures.values())
    highest = max(figure.high for figure in figures.values())
    margin = 0.08 * (highest - lowest) or 0.05
    axes.set_xlim(lowest - margin, highest + margin)
    if floors:
        axes.axvspan(lowest - margin, max(floors), color=GREY, alpha=0.14, lw=0)
        axes.axvline(max(floors), color=GREY, lw=1, ls=(0, (4, 3)))
        where: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
        }
        axes.annotate(
            "floor", (max(floors), 1.0), (-3, 0), ha="right", va="top", color=MUTED, **where
        )
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_title(title)


def gains(report: Report) -> str:
    """Draw for each site what it reaches alone and federated, and the paired difference.

    Empty when not measured; without the difference in a report that does not tell it.
    """
    pairs = site_pairs(report)
    if not 1 < len(pairs) <= SITES_DRAWN:
        return ""
    paid = report.joining
    paid = paid if paid is not None and paid.gains.keys() == pairs.keys() else None
    sites = ordered(paid) if paid else sorted(pairs, key=lambda site: pairs[site][1].mean)
    alt = "AUC on each site's own test patients, alone then federated: " + ", ".join(
        f"{site} {pairs[site][0].mean:.3f} then {pairs[site][1].mean:.3f}"
        + (f", paired difference {spoken(paid.gains[site], sign=True)}" if paid else "")
        for site in sites
    )

    def paint(page: "canvas.Figure") -> None:
        columns = page.subplots(1, 2 if paid else 1, squeeze=False, sharey=True)[0]
        _alone_and_joined(columns[0], [pairs[site] for site in sites])
        columns[0].set_yticks(range(len(sites)), [shorten(site) for site in sites])
        if paid:
            differences(columns[1], paid, sites)
            columns[1].set_title("Paired difference: federated less alone")

    return draw("gains", alt, (9.0 if paid else 7.5, 0.9 + 0.3 * len(sites)), paint)


def _alone_and_joined(axes: "Axes", pairs: Sequence[tuple[Figure, Figure]]) -> None:
    rows = range(len(pairs))
    for row, (alone, joined) in zip(rows, pairs, strict=True):
        axes.plot([alone.mean, joined.mean], [row, row], color=GREY, lw=2, zorder=1)
    axes.plot([alone.mean for alone, _ in pairs], rows, "o", color=INK, label="alone")
    axes.plot([joined.mean for _, joined in pairs], rows, "o", color=BLUE, label="federated")
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.set_title("AUC on each site's own test patients")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def site_pairs(report: Report) -> dict[str, tuple[Figure, Figure]]:
    """Return site -> its AUC alone and federated, for the sites that have both."""
    arms_with = [report.arms.get("local"), report.arms.get("federated")]
    alone, joined = ((arm.sites or {}) if arm else {} for arm in arms_with)
    both = {site: (auc(alone[site]), auc(joined[site])) for site in alone if site in joined}
    return {site: (one, two) for site, (one, two) in both.items() if one and two}


def embedding(pictures: Pictures) -> str:
    """Draw the map of the features twice, coloured by class and by site; empty without a map."""
    if pictures.embedding_N2 is None or not len(pictures.embedding_N2):
        return ""
    points_N2 = pictures.embedding_N2
    panels = [
        (title, kinds)
        for title, kinds in (("By class", _class_of_each(pictures)), ("By site", pictures.sites))
        if kinds is not None
    ] or [("Images", np.full(len(points_N2), "image"))]
    alt = f"Map of the features of {len(points_N2)} images, coloured " + " and ".join(
        title.lower() for title, _ in panels
    )

    def paint(page: "canvas.Figure") -> None:
        for axes, (title, kinds) in zip(_row(page, len(panels)), panels, strict=True):
            _scatter(axes, title, points_N2, kinds)

    return draw("map", alt, (5.0 * len(panels), 4.6), paint)


def _class_of_each(pictures: Pictures) -> NDArray[np.str_] | None:
    if pictures.classes is None or not pictures.class_names:
        return None
    names = np.array([*pictures.class_names, "no label"])
    named: NDArray[np.str_] = names[np.where(pictures.classes < 0, -1, pictures.classes)]
    return named


def _scatter(axes: "Axes", title: str, points_N2: Floats, kinds: NDArray[np.str_]) -> None:
    legend = colours(kinds.tolist())
    shown = np.isfinite(points_N2).all(axis=1)
    # One drawing order for all kinds: what is listed last must not cover what came before.
    order = np.random.default_rng(0).permutation(np.flatnonzero(shown))
    x, y = points_N2[order].T
    hues = [legend.get(kind, GREY) for kind in kinds[order].tolist()]
    axes.scatter(x, y, s=11, c=hues, alpha=0.75, lw=0, rasterized=True)
    for kind, hue in legend.items():
        axes.plot([], [], "o", color=hue, ms=6, label=" " + shorten(kind))
    rest = len(set(kinds.tolist()) - set(legend))
    if rest:
        axes.plot([], [], "o", color=GREY, ms=6, label=f" {rest:,} more")
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if len(legend) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, handletextpad=0.1)


def colours(kinds: Sequence[str]) -> dict[str, str]:
    """Give the commonest kinds a colour each, in the order of their names."""
    common = sorted(kind for kind, _ in Counter(kinds).most_common(KINDS_DRAWN))
    return dict(zip(common, (*HUES, ALARM), strict=False))


def _row(page: "canvas.Figure", count: int) -> list["Axes"]:
    return list(page.subplots(1, count, squeeze=False)[0])
