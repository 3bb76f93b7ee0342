"""The keys of an evaluation's report.json; its page shows them all.

An optional key that has no value is absent, never null.
"""

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from confrere_common.section import section
from confrere_deploy.report.outlined import Outlined
from confrere_deploy.report.schema import (
    Cost,
    Data,
    Figure,
    Machine,
    Measured,
    Natural,
    Number,
    Skipped,
)


@section
class EvaluatedArm:
    """What one arm reached on all test patients."""

    what: str
    """What it is."""

    figures: dict[str, Figure]
    """Measure -> figure, learned from the labels that the run names."""

    structures: dict[str, Outlined] = Field(default_factory=dict)
    """Structure -> its counts and medians, where masks were drawn."""

    best_rounds: tuple[Natural, ...] = ()
    """The round that answered, one a seed."""


@section
class Gap:
    """A paired difference of the leading measure, on the same test patients and seeds."""

    ours: str
    """The arm that is higher where the difference is positive."""

    theirs: str
    """The other."""

    figure: Figure
    """The difference."""

    p: Number | None = None
    """Two-sided, of a permutation test that swaps the arms of whole patients in all seeds at once:
    of these networks on other patients, not of other seeds. Absent where it is not known."""

    p_corrected: Number | None = None
    """The same where all differences of its list are looked at together (Holm)."""


@section
class CurvePoint:
    """What the arms reach on so many labels."""

    labels: str
    """A share of each class's patients, or 'N per class'."""

    images: Natural
    """Images that taught."""

    patients: Natural
    """Patients behind them."""

    arms: dict[str, Figure]
    """Arm -> leading measure."""

    gaps: tuple[Gap, ...] = ()
    """Each given encoder against each other arm."""


@section
class UnseenArm:
    """One arm at one site."""

    unseen: Figure | None = None
    """Learned at all other sites."""

    seen: Figure | None = None
    """Learned at all sites, this one among them."""

    own: Figure | None = None
    """Learned at this site alone."""

    loss: Figure | None = None
    """seen - unseen, paired: what it costs not to have learned there."""


@section
class UnseenSite:
    """A site that was left out of learning, on its own test patients."""

    site: str
    """Its name."""

    images: Natural
    """Its images that taught where it was not left out."""

    test_patients: Natural
    """Its test patients: the same for every column."""

    arms: dict[str, UnseenArm]
    """Arm -> figures."""


@section
class Robustness:
    """How an arm stands worse images."""

    arm: str
    """The arm."""

    curves: dict[str, tuple[Figure | None, ...]]
    """Corruption -> the leading measure at severities 0 (as they are) to 5."""

    error: Measured = None
    """1 - measure, the mean over corruptions and severities; null where the measure is unknown."""

    degradation: Measured = None
    """By how much that lies above the error on images as they are; null as well."""

    worst: str
    """The corruption that costs most, '' where none is known."""


@section
class Bar:
    """One bar of a reliability diagram."""

    low: Number
    """Least confidence of the bar."""

    high: Number
    """Greatest."""

    images: Natural
    """Images in it, over all seeds."""

    confidence: Measured = None
    """Their mean confidence; null where there is none."""

    accuracy: Measured = None
    """Share that is right; null where there is none."""


@section
class Calibration:
    """Whether an arm's confidence is honest, before and after one temperature is fitted."""

    arm: str
    """The arm."""

    temperatures: tuple[Number, ...]
    """Fitted on validation images, one a seed; above 1 means that it was too sure."""

    before: dict[str, Figure]
    """ece, adaptive_ece, brier as they are."""

    after: dict[str, Figure]
    """The same at the temperature."""

    bars_before: tuple[Bar, ...]
    """The diagram as it is."""

    bars_after: tuple[Bar, ...]
    """The diagram at the temperature."""


@section
class Evenness:
    """How evenly a measure is shared among groups."""

    worst: str
    """The group that is served worst."""

    lowest: Number
    """Its figure."""

    gap: Number
    """Between the best and the worst group."""

    jain: Number
    """Jain's index: 1 when all are served alike (https://arxiv.org/abs/cs/9809099)."""


@section
class Factor:
    """An arm's leading measure by group of patients."""

    arm: str
    """The arm."""

    factor: str
    """site, sex, age, vendor, kernel or slice_thickness_mm."""

    figures: dict[str, Figure]
    """Group -> figure."""

    patients: dict[str, Natural]
    """Test patients of each group that is spoken of."""

    suppressed: tuple[str, ...] = ()
    """Groups too small to speak of, or that would give such a one away."""

    evenness: Evenness | None = None
    """Absent where fewer than two groups have a figure."""


@section
class ReuseLevel:
    """One map of an encoder, or its features."""

    name: str
    """Which."""

    cka: tuple[Measured, ...]
    """How alike it is before and after fine-tuning, one a seed: 1 alike, about 0 unrelated; null
    where nothing varies."""


@section
class Reuse:
    """How much of its start an arm still uses once it is fine-tuned."""

    arm: str
    """The arm."""

    images: Natural
    """Test images that were looked at."""

    levels: tuple[ReuseLevel, ...]
    """Finest map first, the features last."""


@section
class EvaluationReport:
    """Everything that report.html shows."""

    schema: Literal[1] = 1
    """Version of these keys."""

    kind: Literal["evaluate"] = "evaluate"
    """What tells it from other reports."""

    name: str
    """The run's name."""

    created: AwareDatetime
    """When it was written."""

    version: str
    """Version of confrere."""

    run: dict[str, Any]
    """The full effective configuration of the first arm."""

    digest: str
    """Its digest."""

    encoders: dict[str, str]
    """Given encoder -> SHA-256 of its file."""

    seeds: tuple[int, ...]
    """The seeds that each training was repeated with."""

    task: str
    """The task."""

    headline: str
    """The measure that arms are compared by; higher is better."""

    smallest: Natural
    """Patients below which a group is not spoken of."""

    arms: dict[str, EvaluatedArm]
    """Arm -> what it reached."""

    gaps: tuple[Gap, ...] = ()
    """Each given encoder against each other arm, on the labels that the run names."""

    curve: tuple[CurvePoint, ...] = ()
    """Fewest labels first; empty where it was not asked for."""

    unseen: tuple[UnseenSite, ...] = ()
    """Empty where it was not asked for."""

    robustness: tuple[Robustness, ...] = ()
    """Empty where it was not asked for."""

    calibration: tuple[Calibration, ...] = ()
    """Of classifiers, where there are validation images. Of several findings in an image, each one
    that is known is an answer of its own."""

    factors: tuple[Factor, ...] = ()
    """By site, and by what the catalog knows."""

    reuse: tuple[Reuse, ...] = ()
    """Of arms whose encoder was fine-tuned."""

    pictures: bool = False
    """Whether pictures.html lies beside it: images of patients."""

    intervals: str = (
        "95 %, from a bootstrap over the test patients, widened by how the repetitions vary"
    )
    """What low and high of a figure are."""

    cost: Cost
    """What it took."""

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
