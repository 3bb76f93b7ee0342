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
"""An error of a figure above it leaves little to say."""

MOSTLY = 0.5
"""A site's share of all counted images, above which a pooled figure is mostly its own."""

MEASURES: Mapping[str, str] = {"auc": "AUC", "dice": "Dice", "precision": "P@5"}
"""Key of a figure -> what people call it."""

HEADLINES: Mapping[str, str] = {"auc": "auc", "dice": "dice", "precision": "P@5"}
"""Key of a figure -> the measure that a task is led by, as its judge calls it."""

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

    calibration_error: float | None = None
    """Mean distance of the reliability curve from the diagonal; absent, with the curve, where
    scores are no probabilities, as of what is normal."""

    false_alarms: tuple[Measured, ...]
    """The ROC curve's x: share of the others that score at least as high."""

    sensitivity: tuple[Measured, ...]
    """The ROC curve's y: share of the class that does."""

    confidence: tuple[Measured, ...] = ()
    """The reliability curve's x: mean score in a bar."""

    frequency: tuple[Measured, ...] = ()
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

    low: float | None = None
    """The mean over the very values is not below this."""

    high: float | None = None
    """The mean over the very values is not above this."""

    without: Natural = 0
    """Images that lack it."""

    alone: float | None = None
    """The share of these in which nothing was marked."""

    alone_error: float | None = None
    """The share over the very values lies within this of alone."""

    alone_low: float | None = None
    """The share over the very values is not below this."""

    alone_high: float | None = None
    """The share over the very values is not above this."""


@section
class EvaluatedQueries:
    """Searches for one class, each among its own site's images, over all sites that told of it."""

    name: str
    """The class."""

    sites: tuple[str, ...]
    """Sites that told of it."""

    images: Natural
    """Queries: held-out images of the class."""

    precision: float
    """Their mean P@5: of the five images nearest to a query, the share that is of its class."""

    error: float
    """The mean over the very values lies within this of precision."""

    low: float
    """The mean over the very values is not below this."""

    high: float
    """The mean over the very values is not above this."""


@section
class EvaluatedSite:
    """One site's own counts, or why there are none."""

    site: str
    """Its name."""

    auc: float | None = None
    """Mean area of the classes that it told of; absent where it told of none."""

    dice: float | None = None
    """Mean Dice of the structures that it told of; of a segmentation."""

    precision: float | None = None
    """Mean P@5 of the classes that it told of; of a retrieval."""

    error: float | None = None
    """Within which the figure over the very scores lies."""

    low: float | None = None
    """Its Dice, or P@5, is not below this."""

    high: float | None = None
    """Its Dice, or P@5, is not above this."""

    images: Natural = 0
    """Held-out images that are counted."""

    enrolled: Natural = 0
    """Images that it enrolled with to train on, where it told of more to score on."""

    smallest: Natural = 0
    """Patients that each of its cells holds at least."""

    refused: str | None = None
    """Why it told nothing."""

    @property
    def worth(self) -> float | None:
        """Its figure; None where it told too little."""
        return _worth(self)


@section
class SharedOut:
    """How evenly the leading figure is shared among sites of which it is known within 0.1."""

    worst: str
    """The site that is served worst."""

    lowest: float
    """Its figure."""

    gap: float
    """Between the best and the worst site."""

    jain: float
    """Jain's index: 1 when all are served alike."""

    sites: Count
    """Sites whose figure is known within 0.1."""


@section
class Evaluated:
    """A federated evaluation: no site showed a score."""

    round: Count
    """The round whose model was scored."""

    auc: float | None = None
    """Mean area of all classes; absent where no site told of one."""

    dice: float | None = None
    """Mean Dice of all structures, where there is one; of a segmentation."""

    precision: float | None = None
    """Mean over classes of their queries' P@5; of a retrieval."""

    error: float | None = None
    """Within which the figure over the very scores lies. It is no interval over patients."""

    low: float | None = None
    """The Dice, or P@5, over the very values is not below this."""

    high: float | None = None
    """The Dice, or P@5, over the very values is not above this."""

    classes: tuple[EvaluatedClass, ...] = ()
    """The classes of which both sides were told."""

    structures: tuple[EvaluatedStructure, ...] = ()
    """The structures that were told of; of a segmentation."""

    queries: tuple[EvaluatedQueries, ...] = ()
    """The classes whose searches were told of; of a retrieval."""

    sites: tuple[EvaluatedSite, ...] = ()
    """Every site that was asked."""

    shared: SharedOut | None = None
    """How evenly; absent with fewer than two sites whose figure is known within 0.1."""

    course: dict[int, float] = Field(default_factory=dict)
    """Round -> area, or another figure where it is known within 0.1, of every evaluation."""

    @property
    def worth(self) -> float | None:
        """The leading figure; None where no site told enough."""
        return _worth(self)


def _worth(found: Evaluated | EvaluatedSite) -> float | None:
    known = (getattr(found, name) for name in MEASURES)
    return next((worth for worth in known if worth is not None), None)


def evaluated(found: Sequence[Mapping[str, Any]]) -> Evaluated | None:
    """Return the section for what sites said after some rounds, put together; None without any."""
    if not found:
        return None
    last = found[-1]
    sites = tuple(_site(name, said) for name, said in last["sites"].items())
    return Evaluated(
        round=last["round"],
        **{name: last.get(name) for name in (*MEASURES, "error", "low", "high")},
        classes=tuple(EvaluatedClass(**_tuples(one)) for one in last.get("classes", ())),
        structures=tuple(EvaluatedStructure(**_tuples(one)) for one in last.get("structures", ())),
        queries=tuple(EvaluatedQueries(**_tuples(one)) for one in last.get("queries", ())),
        sites=sites,
        shared=_shared(sites),
        course={
            one["round"]: one[name]
            for one in found
            for name in MEASURES
            if name in one and (name == "auc" or not is_coarse(one["error"]))
        },
    )


def is_coarse(error: float | None) -> bool:
    """Say whether a figure is better told by its bounds, and ranks no site."""
    return error is not None and error > COARSE


def cautions(found: Evaluated | None) -> Iterator[str]:
    """Yield what a reader should know before believing the section."""
    if found is None:
        return
    if is_coarse(found.error):
        name = next(said for key, said in MEASURES.items() if getattr(found, key) is not None)
        yield (
            f"The pooled {name} may be off by {found.error:.2f}: cells hold too few scores "
            "apart from each other. Either patients are few, or the model scores all images "
            "nearly alike."
        )
    for one in found.structures:
        if one.alone_low is not None and one.alone_high is not None and is_coarse(one.alone_error):
            yield (
                f"Of images without '{one.name}' {one.alone_low:.0%} to {one.alone_high:.0%} were "
                "left alone: where a few patients alone were treated otherwise, cells do not tell "
                "them apart."
            )
    yield from _lopsided(found.sites)


def _lopsided(sites: Sequence[EvaluatedSite]) -> Iterator[str]:
    images = {site.site: site.images for site in sites if site.images}
    for site, count in images.items():
        if len(images) > 1 and count > MOSTLY * sum(images.values()):
            yield (
                f"Site '{site}' counted {count / sum(images.values()):.0%} of the images: the "
                "pooled figure is mostly its own, and rests on its word."
            )
    for one in sites:
        if one.enrolled:
            yield (
                f"Site '{one.site}' scored the model on {one.images} images, and trains on "
                f"{one.enrolled}: its part 'test' is the larger, if that is so."
            )


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(one) if isinstance(one, list) else one for key, one in plain.items()}


def _site(name: str, said: Mapping[str, Any]) -> EvaluatedSite:
    refused = said.get("refused")
    if refused is not None:
        why = sentence_of(refused) if refused in CODES else refused
        return EvaluatedSite(site=name, refused=why)
    return EvaluatedSite(site=name, **said)


def _shared(sites: Sequence[EvaluatedSite]) -> SharedOut | None:
    known = ((site.site, site.worth) for site in sites if not is_coarse(site.error))
    found = fairness({site: worth for site, worth in known if worth is not None})
    if found is None:
        return None
    return SharedOut(
        worst=found.worst, lowest=found.lowest, gap=found.gap, jain=found.jain, sites=found.groups
    )


def shown(
    value: float | None, error: float | None, low: float | None, high: float | None
) -> tuple[str, str]:
    """Return a figure and its error as a table has them; of a coarse one the bounds, alone."""
    if value is None or error is None:
        return "", ""
    if is_coarse(error) and low is not None and high is not None:
        return f"{low:.2f} to {high:.2f}", ""
    return f"{value:.3f}", f"{error:.3f}"


def curves(found: Evaluated | None) -> str:
    """Return ROC curves, and reliability curves of probabilities, as SVG; empty without any."""
    if found is None or not found.classes:
        return ""
    shown = found.classes[:DRAWN]
    likely = any(one.confidence for one in shown)

    def paint(canvas: Any) -> None:
        left, *right = canvas.subplots(1, 1 + likely, squeeze=False)[0]
        for one, colour in zip(shown, HUES, strict=False):
            left.plot(one.false_alarms, one.sensitivity, color=colour, label=one.name)
            for axes in right:
                axes.plot(*_known(one), "o-", color=colour, markersize=3)
        for axes, title in zip((left, *right), ("ROC", "reliability"), strict=False):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
            axes.set_title(title)
        left.set_xlabel("share of others that score as high")
        left.set_ylabel("share of the class that does")
        for axes in right:
            axes.set_xlabel("mean score")
            axes.set_ylabel("share of the class")
        left.legend()

    said = ", ".join(f"{one.name} {number(one.auc, 3)}" for one in shown)
    what, width = ("ROC and reliability", 8.0) if likely else ("ROC", 4.0)
    return draw("evaluation", f"{what} curves; area: {said}", (width, 3.4), paint)


def _known(one: EvaluatedClass) -> tuple[list[float], list[float]]:
    pairs = zip(one.confidence, one.frequency, strict=True)
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
