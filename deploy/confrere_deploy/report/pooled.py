"""What sites' counts of a model's scores come to: the section of a report, its table and drawings.

An optional key that has no value is absent, never null.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from confrere_client.evaluation.fairness import fairness
from confrere_common.codes import CODES, sentence_of
from confrere_common.section import section
from confrere_deploy.report.schema import Measured, Natural
from confrere_deploy.report.svg import GREY, HUES, draw
from confrere_deploy.report.words import number

Count = Annotated[int, Field(ge=1)]

COARSE = 0.1
"""An error of the area above it leaves little to say."""

DRAWN = 6
"""Classes whose curves are drawn; all are in report.json."""


@section
class EvaluatedClass:
    """One class against the rest, over all sites that told of it."""

    name: str
    """The class."""

    sites: tuple[str, ...]
    """Sites that told of it."""

    positives: Natural
    """Images of it."""

    negatives: Natural
    """Images of other classes."""

    auc: float
    """Area under the ROC curve."""

    error: float
    """The area over the very scores lies within this of auc: what joining small cells may hide."""

    calibration_error: float
    """Mean distance of the reliability curve from the diagonal."""

    false_alarms: tuple[Measured, ...]
    """The ROC curve's x: share of the others that score at least as high."""

    sensitivity: tuple[Measured, ...]
    """The ROC curve's y: share of the class that does."""

    confidence: tuple[Measured, ...]
    """The reliability curve's x: mean score in a bar."""

    frequency: tuple[Measured, ...]
    """The reliability curve's y: share of the class among images in the bar."""


@section
class EvaluatedStructure:
    """One structure of a segmentation, over all sites that told of it."""

    name: str
    """The structure."""

    sites: tuple[str, ...]
    """Sites that told of it."""

    images: Natural = 0
    """Images that have it."""

    dice: float | None = None
    """Their mean Dice; absent where too few patients have it."""

    error: float | None = None
    """The mean over the very values lies within this of dice."""

    without: Natural = 0
    """Images that lack it."""

    alone: float | None = None
    """The share of these in which nothing was marked."""

    alone_error: float | None = None
    """The share over the very values lies within this of alone."""


@section
class EvaluatedSite:
    """One site's own counts, or why there are none."""

    site: str
    """Its name."""

    auc: float | None = None
    """Mean area of the classes that it told of; absent where it told of none."""

    dice: float | None = None
    """Mean Dice of the structures that it told of; of a segmentation."""

    error: float | None = None
    """Within which the figure over the very scores lies."""

    images: Natural = 0
    """Held-out images that are counted."""

    smallest: Natural = 0
    """Patients that each of its cells holds at least."""

    refused: str | None = None
    """Why it told nothing."""


@section
class SharedOut:
    """How evenly the area, or the Dice, is shared among the sites that have one."""

    worst: str
    """The site that is served worst."""

    lowest: float
    """Its figure."""

    gap: float
    """Between the best and the worst site."""

    jain: float
    """Jain's index: 1 when all are served alike."""

    sites: Count
    """Sites that have a figure."""


@section
class Evaluated:
    """A federated evaluation: no site showed a score."""

    round: Count
    """The round whose model was scored."""

    auc: float | None = None
    """Mean area of all classes; absent where no site told of one."""

    dice: float | None = None
    """Mean Dice of all structures, where there is one; of a segmentation."""

    error: float | None = None
    """Within which the figure over the very scores lies. It is no interval over patients."""

    classes: tuple[EvaluatedClass, ...] = ()
    """The classes of which both sides were told."""

    structures: tuple[EvaluatedStructure, ...] = ()
    """The structures that were told of; of a segmentation."""

    sites: tuple[EvaluatedSite, ...] = ()
    """Every site that was asked."""

    shared: SharedOut | None = None
    """How evenly; absent with fewer than two sites."""

    course: dict[int, float] = Field(default_factory=dict)
    """Round -> area or Dice, of every evaluation."""

    @property
    def worth(self) -> float | None:
        """The area, or the Dice; None where no site told enough."""
        return self.auc if self.auc is not None else self.dice


def evaluated(found: Sequence[Mapping[str, Any]]) -> Evaluated | None:
    """Return the section for what sites said after some rounds, put together; None without any."""
    if not found:
        return None
    last = found[-1]
    sites = tuple(_site(name, said) for name, said in last["sites"].items())
    return Evaluated(
        round=last["round"],
        auc=last.get("auc"),
        dice=last.get("dice"),
        error=last.get("error"),
        classes=tuple(EvaluatedClass(**_tuples(one)) for one in last.get("classes", ())),
        structures=tuple(EvaluatedStructure(**_tuples(one)) for one in last.get("structures", ())),
        sites=sites,
        shared=_shared({site.site: worth for site in sites if (worth := _worth(site)) is not None}),
        course={
            one["round"]: one[name] for one in found for name in ("auc", "dice") if name in one
        },
    )


def cautions(found: Evaluated | None) -> Iterator[str]:
    """Yield what a reader should know before believing the section."""
    if found is not None and found.error is not None and found.error > COARSE:
        name = "AUC" if found.auc is not None else "Dice"
        yield (
            f"The pooled {name} may be off by {found.error:.2f}: cells hold too few scores "
            "apart from each other. Either patients are few, or the model scores all images "
            "nearly alike."
        )


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(one) if isinstance(one, list) else one for key, one in plain.items()}


def _site(name: str, said: Mapping[str, Any]) -> EvaluatedSite:
    refused = said.get("refused")
    if refused is not None:
        why = sentence_of(refused) if refused in CODES else refused
        return EvaluatedSite(site=name, refused=why)
    return EvaluatedSite(site=name, **said)


def _worth(site: EvaluatedSite) -> float | None:
    return site.auc if site.auc is not None else site.dice


def _shared(areas: Mapping[str, float]) -> SharedOut | None:
    found = fairness(areas)
    if found is None:
        return None
    return SharedOut(
        worst=found.worst, lowest=found.lowest, gap=found.gap, jain=found.jain, sites=found.groups
    )


def curves(found: Evaluated | None) -> str:
    """Return ROC and reliability curves as SVG; empty where there are none."""
    if found is None or not found.classes:
        return ""
    shown = found.classes[:DRAWN]

    def paint(canvas: Any) -> None:
        left, right = canvas.subplots(1, 2)
        for one, colour in zip(shown, HUES, strict=False):
            left.plot(one.false_alarms, one.sensitivity, color=colour, label=one.name)
            right.plot(*_known(one), "o-", color=colour, markersize=3)
        for axes, title in ((left, "ROC"), (right, "reliability")):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
            axes.set_title(title)
        left.set_xlabel("share of others that score as high")
        left.set_ylabel("share of the class that does")
        right.set_xlabel("mean score")
        right.set_ylabel("share of the class")
        left.legend()

    said = ", ".join(f"{one.name} {number(one.auc, 3)}" for one in shown)
    return draw("evaluation", f"ROC and reliability curves; area: {said}", (8.0, 3.4), paint)


def _known(one: EvaluatedClass) -> tuple[list[float], list[float]]:
    pairs = zip(one.confidence, one.frequency, strict=True)
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
