"""The drawings of an evaluation's page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confrere_client.evaluation.detection import FROC
from confrere_deploy.evaluation.schema import (
    Bar,
    Calibration,
    CurvePoint,
    EvaluationReport,
    Factor,
    Robustness,
)
from confrere_deploy.report.schema import Figure
from confrere_deploy.report.svg import ALARM, BLUE, GREY, HUES, INK, draw
from confrere_deploy.report.words import number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_IN = 8.0
SMALL_IN = 2.0
ACROSS = 4
"""Small drawings side by side."""


def drawings(report: EvaluationReport) -> dict[str, str]:
    """Return what the page puts in unescaped: text in it is escaped already."""
    hues = dict(zip(report.arms, [*HUES, GREY] * len(report.arms), strict=False))
    return {
        "arms": _arms(report, hues),
        "froc": _froc(report, hues),
        "curve": _curve(report.curve, report.headline, hues),
        "unseen": _unseen(report, hues),
        "robustness": _robustness(report.robustness, report.headline, hues),
        "calibration": _reliability(report.calibration),
        "factors": _factors(report.factors, report.headline, hues),
    }


def _arms(report: EvaluationReport, hues: Mapping[str, str]) -> str:
    known = {
        name: arm.figures[report.headline]
        for name, arm in report.arms.items()
        if report.headline in arm.figures
    }
    if not known:
        return ""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        _dots(axes, known, hues)
        axes.set_title(report.headline)

    said = ", ".join(f"{name} {number(figure.mean)}" for name, figure in known.items())
    size = (6.4, 0.9 + 0.32 * len(known))
    return draw("arms", f"{report.headline}: {said}", size, paint)


def _froc(report: EvaluationReport, hues: Mapping[str, str]) -> str:
    """Draw the share of lesions found over false alarms per image; of a detection alone."""
    known = {
        name: [(at, arm.figures[title]) for title, at in FROC.items() if title in arm.figures]
        for name, arm in report.arms.items()
    }
    if not any(known.values()):
        return ""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        axes.set_xscale("log", base=2)
        for arm, points in known.items():
            at, figures = [at for at, _ in points], [figure for _, figure in points]
            low, high = ([getattr(figure, end) for figure in figures] for end in ("low", "high"))
            axes.fill_between(at, low, high, color=hues[arm], alpha=0.15, linewidth=0)
            axes.plot(at, [figure.mean for figure in figures], "o-", color=hues[arm], label=arm)
        axes.set_xticks(list(FROC.values()), [title.split()[-1] for title in FROC])
        axes.minorticks_off()
        axes.set_xlabel("false alarms per image")
        axes.set_ylim(0, 1)
        axes.set_title("share of true boxes found")
        axes.legend()

    said = "; ".join(
        f"{arm} " + ", ".join(number(figure.mean) for _, figure in points)
        for arm, points in known.items()
        if points
    )
    alt = f"Share of true boxes found at 1/8 to 8 false alarms per image: {said}"
    return draw("froc", alt, (WIDE_IN, 3.0), paint)


def _dots(axes: "Axes", figures: Mapping[str, Figure], hues: Mapping[str, str]) -> None:
    """Put one row for each figure: a dot and its interval, the first on top."""
    for row, (name, figure) in enumerate(reversed(list(figures.items()))):
        colour = hues.get(name, BLUE)
        axes.plot([figure.low, figure.high], [row, row], color=colour, linewidth=2)
        axes.plot([figure.mean], [row], "o", color=colour)
    names = [shorten(name) for name in reversed(list(figures))]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)


def _curve(points: Sequence[CurvePoint], headline: str, hues: Mapping[str, str]) -> str:
    if not points:
        return ""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        axes.set_xscale("log")
        for place, (arm, colour) in enumerate(hues.items()):
            known = [(point.patients, point.arms[arm]) for point in points if arm in point.arms]
            # A little apart, so that intervals do not hide each other.
            at = [patients * 1.03 ** (place - len(hues) / 2) for patients, _ in known]
            means = [figure.mean for _, figure in known]
            sides = [
                [figure.mean - figure.low for _, figure in known],
                [figure.high - figure.mean for _, figure in known],
            ]
            axes.errorbar(at, means, sides, marker="o", color=colour, capsize=3, label=arm)
        axes.set_xticks(
            [point.patients for point in points],
            [f"{point.patients}\n({point.labels})" for point in points],
        )
        axes.minorticks_off()
        axes.set_xlabel("patients whose labels were learned from")
        axes.set_title(headline)
        axes.legend()

    alt = f"{headline} of each arm over the number of labelled patients"
    return draw("curve", alt, (WIDE_IN, 3.4), paint)


def _unseen(report: EvaluationReport, hues: Mapping[str, str]) -> str:
    rows = [
        (f"{site.site}, {name}" if len(site.arms) > 1 else site.site, name, arm)
        for site in report.unseen
        for name, arm in site.arms.items()
    ]
    if not rows:
        return ""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        for row, (_, name, arm) in enumerate(reversed(rows)):
            marks = ((arm.unseen, "o", 0.0), (arm.seen, "D", 0.18), (arm.own, "|", -0.18))
            for figure, mark, shift in marks:
                if figure is not None:
                    ends = [figure.low, figure.high]
                    axes.plot(ends, [row + shift] * 2, color=hues[name], linewidth=1, alpha=0.6)
                    axes.plot([figure.mean], [row + shift], mark, color=hues[name])
        axes.set_yticks(range(len(rows)), [shorten(title, 40) for title, _, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(f"{report.headline}: never seen (o), seen (diamond), alone (bar)")

    alt = f"{report.headline} at each site, with and without having learned there"
    return draw("unseen", alt, (WIDE_IN, 1.0 + 0.4 * len(rows)), paint)


def _robustness(found: Sequence[Robustness], headline: str, hues: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(name for one in found for name in one.curves))
    if not names:
        return ""
    down = -(-len(names) // ACROSS)

    def paint(canvas: Any) -> None:
        grid = canvas.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, name in zip(grid, names, strict=False):
            for one in found:
                _severities(axes, one.curves.get(name, ()), hues[one.arm], one.arm)
            axes.set_title(name)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        grid[0].set_ylabel(headline)
        handles, labels = grid[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3)

    alt = f"{headline} at severities 0 to 5 of {', '.join(names)}"
    return draw("robustness", alt, (WIDE_IN, 0.6 + 1.5 * down), paint)


def _severities(axes: "Axes", figures: Sequence[Figure | None], colour: str, label: str) -> None:
    known = [(place, figure) for place, figure in enumerate(figures) if figure is not None]
    at = [place for place, _ in known]
    axes.plot(at, [figure.mean for _, figure in known], "o-", ms=3, color=colour, label=label)
    low, high = ([getattr(figure, end) for _, figure in known] for end in ("low", "high"))
    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xticks(range(6))


def _reliability(found: Sequence[Calibration]) -> str:
    if not found:
        return ""
    panels = [
        (f"{shorten(one.arm)}, {when}", bars)
        for one in found
        for when, bars in (("as it is", one.bars_before), ("scaled", one.bars_after))
    ]
    down = -(-len(panels) // ACROSS)

    def paint(canvas: Any) -> None:
        grid = canvas.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (title, bars) in zip(grid, panels, strict=False):
            _bars(axes, bars)
            axes.set_title(title, fontsize=8)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        grid[0].set_ylabel("share right")
        grid[0].set_xlabel("confidence")

    alt = "Reliability of each arm before and after temperature scaling"
    return draw("calibration", alt, (WIDE_IN, 0.3 + SMALL_IN * down), paint)


def _bars(axes: "Axes", bars: Sequence[Bar]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    most = max((bar.images for bar in bars), default=1) or 1
    for bar in bars:
        if bar.accuracy is not None and bar.confidence is not None:
            width = (bar.high - bar.low) * 0.9
            strength = 0.25 + 0.75 * bar.images / most
            middle = (bar.low + bar.high) / 2
            axes.bar(middle, bar.accuracy, width, color=BLUE, alpha=strength)
            axes.plot([middle], [bar.confidence], "_", color=ALARM, ms=6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _factors(found: Sequence[Factor], headline: str, hues: Mapping[str, str]) -> str:
    """Draw the groups of each factor side by side, all arms in one panel."""
    names = list(dict.fromkeys(one.factor for one in found if one.figures))
    if not names:
        return ""
    groups = {
        name: sorted({group for one in found if one.factor == name for group in one.figures})
        for name in names
    }

    def paint(canvas: Any) -> None:
        heights = [len(groups[name]) + 0.8 for name in names]
        grid = canvas.subplots(len(names), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, name in zip(grid.ravel(), names, strict=True):
            mine = [one for one in found if one.factor == name]
            for place, one in enumerate(mine):
                _groups(axes, one, groups[name], hues[one.arm], 0.5 * place / max(1, len(mine)))
            axes.set_yticks(range(len(groups[name])), [shorten(one) for one in groups[name]])
            axes.set_ylim(-0.5, len(groups[name]) - 0.1)
            axes.set_title(name, color=INK)
        grid[-1, 0].set_xlabel(headline)

    height = 0.6 + sum(0.28 * len(groups[name]) + 0.5 for name in names)
    alt = f"{headline} by {', '.join(names)}"
    return draw("factors", alt, (WIDE_IN, height), paint)


def _groups(axes: "Axes", one: Factor, names: Sequence[str], colour: str, shift: float) -> None:
    for row, group in enumerate(names):
        figure = one.figures.get(group)
        if figure is not None:
            axes.plot([figure.low, figure.high], [row + shift] * 2, color=colour, linewidth=1.5)
            axes.plot([figure.mean], [row + shift], "o", ms=4, color=colour)
