"""The keys of a fine-tuning's report.json, and its page: the same style as that of a pre-training.

An optional key that has no value is absent, never null.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, Field

from confrere_common.judged import SCORED
from confrere_common.section import section
from confrere_common.storage import atomic_write
from confrere_deploy.report import joined
from confrere_deploy.report.codec import plain
from confrere_deploy.report.html import environment, style
from confrere_deploy.report.outlined import Outlined
from confrere_deploy.report.pooled import MEASURES, Evaluated, curves, shown
from confrere_deploy.report.schema import (
    Cost,
    Data,
    Figure,
    Joining,
    Machine,
    Measured,
    Natural,
    Protection,
    Skipped,
)
from confrere_deploy.report.svg import BLUE, HUES, draw
from confrere_deploy.report.words import amount, duration, number, spoken

Count = Annotated[int, Field(ge=1)]

LISTED = 40
"""Figures of an arm that the page lists; all are in report.json."""


@section
class TunedSite:
    """A site that took part."""

    site: str
    """Its name."""

    images: Natural
    """Marked images that it learned from."""

    patients: Natural | None = None
    """Patients behind them; absent where the hospitals keep that to themselves."""

    classes: dict[str, Natural] = Field(default_factory=dict)
    """Class -> images that have it, in their label, their mask or a box."""

    test_patients: Natural = 0
    """Patients who count for it in the test."""


@section
class TunedArm:
    """What one way of fine-tuning reached on test patients."""

    what: str
    """What it is."""

    figures: dict[str, Figure]
    """Measure -> figure."""

    sites: dict[str, Figure] = Field(default_factory=dict)
    """Site -> the leading measure on its own test patients; those of fewer than 5 are left out."""

    structures: dict[str, Outlined] = Field(default_factory=dict)
    """Structure -> its counts and medians, where masks were drawn."""


@section
class Course:
    """One training, round by round."""

    arm: str
    """The arm that it belongs to."""

    seed: int
    """The repetition."""

    losses: dict[int, Measured]
    """Round -> mean training loss."""

    scores: dict[int, Measured]
    """Round -> the leading measure on validation patients; empty where there are none."""

    best: Natural
    """The round whose weights answered in the test."""


@section
class Chance:
    """How often arms as alike as two would differ as much as these do."""

    p: Annotated[float, Field(gt=0, le=1)]
    """Two-sided, of a permutation test that swaps the arms of whole patients in all seeds at once:
    of these networks on other patients, not of other seeds."""

    p_corrected: Annotated[float, Field(gt=0, le=1)]
    """The same where all differences of the report are looked at together (Holm)."""


@section
class TunedReport:
    """Everything that report.html shows."""

    schema: Literal[1] = 1
    """Version of these keys."""

    kind: Literal["finetune"] = "finetune"
    """What tells it from the report of a pre-training."""

    name: str
    """The run's name."""

    created: AwareDatetime
    """When it was written."""

    version: str
    """Version of confrere."""

    run: dict[str, Any]
    """The full effective configuration."""

    digest: str
    """Its digest."""

    seeds: tuple[int, ...]
    """The seeds it was repeated with."""

    task: str
    """The task."""

    headline: str
    """The measure that rounds are chosen and arms compared by."""

    sites: tuple[TunedSite, ...]
    """The sites."""

    arms: dict[str, TunedArm]
    """Ways of fine-tuning, and floors."""

    differences: dict[str, Figure] = Field(default_factory=dict)
    """'federated-local' -> paired difference of the leading measure on the same test patients."""

    chances: dict[str, Chance] = Field(default_factory=dict)
    """'federated-local' -> p of that difference, where every seed answered in both arms."""

    joining: Joining | None = None
    """Whether joining paid for each site; absent unless both 'federated' and 'local' ran."""

    courses: tuple[Course, ...]
    """Every training of every repetition."""

    pictures: bool = False
    """Whether pictures.html lies beside it: images of patients, which the report has none of."""

    intervals: str = (
        "95 %, from a bootstrap over the test patients, widened by how the repetitions vary"
    )
    """What low and high of a figure are."""

    evaluation: Evaluated | None = None
    """What the sites' counts of the model's scores come to; absent where none were asked for."""

    cost: Cost
    """What it took."""

    protection: Protection | None = None
    """What was promised to patients and sites; of real federations only."""

    warnings: tuple[str, ...]
    """What a reader should know before believing the figures."""

    skipped: Skipped = Field(default_factory=Skipped)
    """Files that could not serve."""

    data: Data
    """The images."""

    machine: Machine
    """The class of machine."""

    command: str | None = None
    """The command that repeats it."""


def write_tuned(out: Path, report: TunedReport) -> None:
    """Put report.json and report.html in the folder *out*, each whole or not at all."""
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(out / "report.json", text.encode())
    atomic_write(out / "report.html", page(report).encode())


def page(report: TunedReport) -> str:
    """Return the page; every name and value in it is escaped."""
    return environment().get_template("tuned.html.jinja").render(
        report=report,
        style=style(),
        rows=_rows(report),
        shown=shown,
        measure=SCORED.get(report.task, "auc"),
        measures=MEASURES,
        verdicts=[*_verdicts(report), *joined.verdict(report.joining)],
        drawings={
            "arms": _arms(report),
            "joining": joined.drawing(report.joining, report.headline),
            "courses": _courses(report),
            "evaluation": curves(report.evaluation),
        },
        costs=_costs(report),
        config=yaml.safe_dump(plain(report.run), sort_keys=False, allow_unicode=True, width=100),
    )  # fmt: skip


def _rows(report: TunedReport) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a row for each measure: its name and, for each arm, mean and interval."""
    names = dict.fromkeys(name for arm in report.arms.values() for name in arm.figures)
    return [
        (name, [_said(arm.figures.get(name)) for arm in report.arms.values()])
        for name in list(names)[:LISTED]
    ]


def _said(figure: Figure | None) -> tuple[str, str]:
    if figure is None:
        return "", ""
    mean, _, interval = spoken(figure).partition(" ")
    return mean, interval.strip("()")


def _verdicts(report: TunedReport) -> list[str]:
    said = []
    for pair, gap in report.differences.items():
        ours, _, theirs = pair.partition("-")
        apart = gap.low > 0 or gap.high < 0
        how = ("above" if gap.low > 0 else "below") if apart else "not told apart from"
        said.append(
            f"'{ours}' is {how} '{theirs}': paired difference of {report.headline} "
            f"{spoken(gap, sign=True)}{_chance(report.chances.get(pair))}."
        )
    return said


def _chance(found: Chance | None) -> str:
    return f", p = {found.p:.2g} ({found.p_corrected:.2g} corrected)" if found else ""


def _costs(report: TunedReport) -> list[tuple[str, str]]:
    return [
        ("Time", duration(report.cost.wall_s)),
        ("Sent by the sites", amount(report.cost.bytes_up)),
        ("Received by the sites", amount(report.cost.bytes_down)),
        ("Machine", ", ".join(filter(None, (report.machine.cpu, report.machine.gpu)))),
    ]


def _arms(report: TunedReport) -> str:
    figures = {name: arm.figures.get(report.headline) for name, arm in report.arms.items()}
    known = {name: figure for name, figure in figures.items() if figure is not None}
    if not known:
        return ""

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        for row, (name, found) in enumerate(reversed(known.items())):
            colour = BLUE if name in ("federated", "tuned") else "#9aa3ad"
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
            axes.plot([found.mean], [row], "o", color=colour)
        axes.set_yticks(range(len(known)), list(reversed(known)))
        axes.set_title(report.headline)
        axes.set_ylim(-0.6, len(known) - 0.4)

    said = ", ".join(f"{name} {number(found.mean, 3)}" for name, found in known.items())
    alt = f"{report.headline}: {said}"
    return draw("arms", alt, (6.4, 0.9 + 0.32 * len(known)), paint)


def _courses(report: TunedReport) -> str:
    if not any(course.losses for course in report.courses):
        return ""

    def paint(canvas: Any) -> None:
        left, right = canvas.subplots(1, 2)
        for course, colour in zip(report.courses, HUES * len(report.courses), strict=False):
            title = f"{course.arm}, seed {course.seed}"
            left.plot(*_line(course.losses), color=colour, label=title)
            if _line(course.scores)[0]:
                right.plot(*_line(course.scores), color=colour, label=title)
        left.set_title("training loss")
        right.set_title(f"{report.headline} on validation patients")
        left.legend()

    return draw("courses", "Training loss and validation score by round", (8.0, 2.6), paint)


def _line(values: Mapping[int, float | None]) -> tuple[list[int], list[float]]:
    known = {at: value for at, value in sorted(values.items()) if value is not None}
    return list(known), list(known.values())
