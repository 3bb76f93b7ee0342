"""The page of an evaluation; it holds no image of a patient."""

import json
from pathlib import Path

import yaml

from confrere_common.storage import atomic_write
from confrere_deploy.evaluation.drawings import drawings
from confrere_deploy.evaluation.schema import EvaluationReport, Gap
from confrere_deploy.report.codec import plain
from confrere_deploy.report.html import environment, style
from confrere_deploy.report.schema import Figure
from confrere_deploy.report.words import duration, spoken

LISTED = 40
"""Measures of an arm that the page lists; all are in report.json."""
CHANCE = (
    "p: how often arms that answer alike would differ as much, by swapping whole patients between "
    "them in all repetitions at once; it speaks of these networks on other patients, the interval "
    "also of other repetitions. Corrected: for all differences of this list (Holm). Arms are told "
    "apart where the interval leaves out 0 and the corrected p is below 0.05."
)
"""What the verdicts of a list rest on."""
LEVEL = 0.05
"""Corrected p below which two arms are told apart."""


def write(out: Path, report: EvaluationReport) -> None:
    """Put report.json and report.html in the folder *out*, each whole or not at all."""
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(out / "report.json", text.encode())
    atomic_write(out / "report.html", page(report).encode())


def page(report: EvaluationReport) -> str:
    """Return the page; every name and value in it is escaped. It holds no image of a patient."""
    return environment().get_template("evaluated.html.jinja").render(
        report=report,
        style=style(),
        said=said,
        drawings=drawings(report),
        rows=_rows(report),
        verdicts=[verdict(gap, report.headline) for gap in report.gaps],
        curve_verdicts=[
            f"{point.labels}: {verdict(gap, report.headline)}"
            for point in report.curve
            for gap in point.gaps
        ],
        chance=CHANCE,
        time=duration(report.cost.wall_s),
        config=yaml.safe_dump(plain(report.run), sort_keys=False, allow_unicode=True, width=100),
    )  # fmt: skip


def _rows(report: EvaluationReport) -> list[tuple[str, list[tuple[str, str]]]]:
    names = dict.fromkeys(name for arm in report.arms.values() for name in arm.figures)
    return [
        (name, [said(arm.figures.get(name)) for arm in report.arms.values()])
        for name in list(names)[:LISTED]
    ]


def said(figure: Figure | None, *, sign: bool = False) -> tuple[str, str]:
    """Return a figure's mean and interval as words; empty where there is none."""
    if figure is None:
        return "", ""
    mean, _, interval = spoken(figure, sign=sign).partition(" ")
    return mean, interval.strip("()")


def verdict(gap: Gap, headline: str) -> str:
    """Say whether two arms are told apart: by the interval and by p, corrected."""
    apart = (gap.figure.low > 0 or gap.figure.high < 0) and (gap.p_corrected or 0) < LEVEL
    above = "above" if gap.figure.low > 0 else "below"
    how = f"is {above}" if apart else "is not told apart from"
    return (
        f"'{gap.ours}' {how} '{gap.theirs}': paired difference of {headline} "
        f"{spoken(gap.figure, sign=True)}{_chance(gap)}."
    )


def _chance(gap: Gap) -> str:
    if gap.p is None or gap.p_corrected is None:
        return ""
    return f", p = {gap.p:.2g} ({gap.p_corrected:.2g} corrected)"
