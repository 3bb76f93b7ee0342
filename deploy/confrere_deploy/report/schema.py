"""The keys of report.json: a contract with whoever reads it, versioned and explained in README.md.

An optional key that has no value is absent, never null; the number 'not a number' is never written:
a loss or a metric that was not finite is null, a figure that is not finite is refused.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, Field

from confrere_common.section import section
from confrere_deploy.report.numbers import Amount as Amount
from confrere_deploy.report.numbers import Figure as Figure
from confrere_deploy.report.numbers import Measured as Measured
from confrere_deploy.report.numbers import Natural as Natural
from confrere_deploy.report.numbers import Number as Number

SCHEMA = 1

ArmName: TypeAlias = Literal["raw", "random", "local", "federated", "centralised"]
ARMS: tuple[ArmName, ...] = ("raw", "random", "local", "federated", "centralised")
FLOORS: tuple[ArmName, ...] = ("raw", "random")

Pair = Annotated[str, Field(pattern=rf"^({'|'.join(ARMS)})-({'|'.join(ARMS)})$")]


@section
class Linear:
    """A logistic regression on frozen features, judged on test patients."""

    auc: Figure | None = None
    """Area under the ROC curve, macro over classes; absent when the test set has one class only."""

    accuracy: Figure | None = None
    """Share of test images whose class is told rightly."""

    balanced_accuracy: Figure | None = None
    """Mean over classes of the share told rightly."""


@section
class Knn:
    """The vote of the nearest training images by cosine of frozen features."""

    accuracy: Figure
    """Share of test images whose class is told rightly by 20 neighbours."""

    accuracy_11: Figure | None = None
    """The same by 11 neighbours."""


@section
class SiteArm:
    """What one way of making features reached on one site's test patients."""

    linear: Linear | None = None
    """Absent without labels."""

    knn: Knn | None = None
    """Absent without labels."""


@section
class Arm:
    """What one way of making features reached."""

    linear: Linear | None = None
    """Absent without labels."""

    knn: Knn | None = None
    """Absent without labels."""

    rankme: Figure | None = None
    """Effective number of feature dimensions (https://arxiv.org/abs/2210.02885)."""

    sites: dict[str, SiteArm] | None = None
    """The same probes on each site's own test patients, 'local' by the site's own encoder alone;
    without sites of fewer than 5 test patients."""

    unseen: dict[str, SiteArm] | None = None
    """The same probes on the test patients of each site that was left out of all learning
    (data.leave_out), who count in no other figure; 'local' is the mean of all sites' encoders."""


@section
class Joining:
    """Whether taking part paid: federated less the site's own, on the site's own test patients."""

    gains: dict[str, Figure]
    """Site -> paired difference of the leading measure, with its interval; without sites of fewer
    than 5 test patients, and those where it is not defined."""

    losing: tuple[str, ...] = ()
    """Sites whose difference is below 0, whatever the interval."""

    surely_losing: tuple[str, ...] = ()
    """Sites whose whole interval lies below 0."""

    surely_gaining: tuple[str, ...] = ()
    """Sites whose whole interval lies above 0."""


@section
class Site:
    """A site that the run knew."""

    site: str
    """Its name."""

    images: Natural
    """Images it trained on."""

    patients: Natural | None = None
    """Patients behind them; absent where the hospital keeps that to itself."""

    test_patients: Natural | None = None
    """Patients who count for this site in the test; none of them is trained on."""


@section
class RoundSite:
    """What one site did in a round."""

    site: str
    """Its name."""

    loss: Measured
    """Mean training loss of its round; null when it was not finite or there is none."""

    images: Natural
    """Images it trained on: its weight in a mean."""

    seconds: Amount
    """Time its work took."""

    metrics: dict[str, Measured] = Field(default_factory=dict)
    """Health of the representation: rankme, feature_std, uniformity, alignment."""

    alarms: tuple[str, ...] | None = None
    """Names of the metrics that speak of a collapse, or sentences that begin with the name; absent
    when none does."""

    refused: str | None = None
    """Why its update was left out; absent when it was taken."""


@section
class Round:
    """One round of one repetition."""

    round: Annotated[int, Field(ge=1)]
    """1 for the first."""

    seed: int
    """The seed of the repetition it belongs to."""

    loss: Measured
    """Mean of the sites' losses, each weighing as much as its images."""

    sites: tuple[RoundSite, ...]
    """The sites that were asked."""

    bytes_up: Natural
    """Bytes that all sites sent."""

    bytes_down: Natural
    """Bytes that all sites received."""

    seconds: Amount
    """Time from asking to the joined weights."""


@section
class Cost:
    """What the whole run took, all seeds and arms together."""

    wall_s: Amount
    """Seconds from start to end, of all sessions of the run."""

    cpu_s: Amount | None = None
    """Processor seconds of this process and its children, of all sessions; absent in a real
    federation, whose hospitals keep theirs to themselves."""

    peak_rss_mib: Amount | None = None
    """Largest memory held at once, in MiB; with workers a bound, what they share counts in each."""

    bytes_up: Natural
    """Bytes from the sites to the coordinator, over all rounds and seeds."""

    bytes_down: Natural
    """Bytes from the coordinator to the sites, over all rounds and seeds."""

    images_per_s: Amount
    """Images trained on per second of the rounds."""

    sessions: Annotated[int, Field(ge=1)] | None = None
    """Times that the run was started: 1 unless it was resumed."""


@section
class Skipped:
    """Files that could not serve."""

    count: Natural = 0
    """How many."""

    reasons: dict[str, Natural] = Field(default_factory=dict)
    """Reason -> how many."""


@section
class Data:
    """The images of the run."""

    images: Natural
    """Images that the sites train on, all together."""

    patients: Natural | None = None
    """Patients behind them; absent where the hospitals keep that to themselves."""

    classes: tuple[str, ...]
    """Class names; empty without labels."""

    channels: Annotated[int, Field(ge=1)]
    """1 for grey, 3 for colour."""

    size: tuple[Annotated[int, Field(ge=1)], ...]
    """Shape of an image in voxels: [Y, X] or [Z, Y, X]."""

    modality: str
    """Preset of the augmentation; empty when none was named."""

    test_images: Natural
    """Images that only serve to measure."""

    test_patients: Natural
    """Patients behind them; none of them is trained on."""

    preparation: dict[str, Any] | None = None
    """How the images were prepared before the run: as their data set has it or, in a federation, as
    the run demands it of every site; absent where nobody knows."""


@section
class Machine:
    """The class of machine that ran it; never its name."""

    cpu: str
    """Model of the processor; empty when unknown."""

    cores: Natural
    """Processor cores that the run could use."""

    gpu: str | None = None
    """Model of the accelerator; absent when the run used none."""

    torch: str
    """Version of torch."""

    python: str | None = None
    """Version of Python."""


@section
class ProtectedSite:
    """On what terms one site's patients took part in a private run."""

    site: str
    """The site."""

    patients: Natural
    """Patients of the site as enrolled."""

    rate: Amount
    """Chance of a patient to be drawn for a step (Poisson sampling)."""

    noise_multiplier: Amount
    """Noise over clip_norm."""

    clip_norm: Amount
    """Largest norm of one patient's gradient in a step."""

    steps_per_round: Natural
    """Steps in a round."""

    rounds: Natural
    """Rounds in which the site took part."""

    epsilon: Amount
    """What these cost each patient, at least: a round done anew after a crash is paid anew, in the
    site's own ledger."""

    delta: Amount
    """Delta at which that is reckoned."""


@section
class Protection:
    """What was promised to patients and sites."""

    unit: Literal["patient"] | None = None
    """Whom differential privacy hides; absent without it."""

    epsilon: Amount | None = None
    """What the run may cost a patient, as it was asked."""

    delta: Amount | None = None
    """Chance that this does not hold, as it was asked."""

    secure_aggregation: bool
    """Whether the coordinator saw only sums of sites' updates."""

    sites: tuple[ProtectedSite, ...] = ()
    """Terms of each site."""


@section
class Report:
    """Everything that report.html shows but the pictures."""

    schema: Literal[1] = 1
    """Version of these keys; raised whenever one changes its meaning or goes."""

    name: str
    """The run's name."""

    created: AwareDatetime
    """When the report was written, as an ISO 8601 time in UTC."""

    version: str
    """Version of confrere."""

    run: dict[str, Any]
    """The full effective configuration."""

    digest: str
    """Digest of that configuration."""

    seeds: tuple[int, ...]
    """The seeds it was repeated with."""

    sites: tuple[Site, ...]
    """The sites."""

    arms: dict[ArmName, Arm]
    """Ways of making features; those not run are absent."""

    differences: dict[Pair, Figure] | None = None
    """'federated-local' -> paired difference of their linear AUC, over the same test patients."""

    joining: Joining | None = None
    """Whether joining paid for each site, by linear AUC; absent where the arms
    'federated' and 'local' did not both run."""

    intervals: str = (
        "95 %, from a bootstrap over the test patients, widened by how the repetitions vary"
    )
    """What low and high of a figure are."""

    site_tests: str | None = None
    """How test patients came to count for a site; absent without figures by site."""

    rounds: tuple[Round, ...]
    """The rounds of all repetitions."""

    cost: Cost
    """What it took."""

    protection: Protection | None = None
    """What was promised to patients and sites; absent from reports of older versions."""

    warnings: tuple[str, ...]
    """What a reader should know before believing the figures."""

    skipped: Skipped = Field(default_factory=Skipped)
    """Files that could not serve."""

    data: Data
    """The images."""

    machine: Machine
    """The class of machine."""

    command: str | None = None
    """The command that repeats the run; absent when it was started from Python."""
