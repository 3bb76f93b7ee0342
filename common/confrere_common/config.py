"""A run: one YAML file, one frozen tree of values, loaded with all faults reported at once.

The string under a field is its documentation; ``confrere check --explain`` prints it.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from confrere_common.augment.presets import Augmentation
from confrere_common.describe import Describe
from confrere_common.errors import ConfigError
from confrere_common.family import Choice as Choice
from confrere_common.family import Named
from confrere_common.finetune import Finetune
from confrere_common.limits import Limits
from confrere_common.preparation import Preparation
from confrere_common.privacy.settings import Privacy
from confrere_common.secagg.section import SecureAggregation
from confrere_common.section import section

UNCUT = ("detection",)
"""Tasks whose marks cannot be cut with a crop."""

Choices = tuple[Choice, ...]
"""Several names from a family, each alone or as a mapping with its knobs."""

NO_METHOD = Named(name="", knobs={})
"""What stands for the method of a run that fine-tunes: its task is the objective."""

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator takes, and the wire carries."""


def _differing(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds:
        raise ValueError("name at least one")
    if len(set(seeds)) != len(seeds):
        raise ValueError("one is repeated: each must be another")
    return seeds


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names) or "" in names:
        raise ValueError("name each site once")
    return names


def _listed(sides: Any) -> Any:
    """Return one side alone as a list of one, so that equal runs are written alike."""
    return (sides,) if isinstance(sides, int) else sides


def _few(sides: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(sides) <= 3:
        raise ValueError("give one number, or one for each of [Z] Y X")
    return sides


Side = Annotated[int, Field(ge=8, le=4096)]
Sides = Annotated[tuple[Side, ...], BeforeValidator(_listed), AfterValidator(_few)]
"""One side for all axes, or one for each of [Z] Y X."""


@section
class Data:
    """Which images, and how they are spread over sites in a simulation."""

    source: Choice
    """Where the images come from: a source and its knobs (phantom, npz, catalog, folder,
    prepared, site)."""

    image_px: Side = 64
    """Longer side of every image in pixels (voxels in 3-D): resized once, with the aspect kept."""

    crop_px: Sides | None = None
    """Instead: sides of crops that are taken of images as they are, never resized. One number, or
    one for each of [Z] Y X (96, or [64, 96, 96]). Training draws a place for each image and step,
    of a segmentation's every second one on a mask; all else sees the middle, and segmentation
    answers for whole images window by window. What an image is too small for is black."""

    channels: Literal[1, 3] | None = None
    """Channels of every image; absent means 3 when any image is coloured, else 1."""

    dims: Literal[2, 3] | None = None
    """Axes of an image; absent means as the source has them."""

    split: Choice = Field(default_factory=lambda: Named(name="natural", knobs={}))
    """How patients are spread over simulated sites (natural, iid, dirichlet, quantity)."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of patients that only ever serve to measure, unless the source names a test split."""

    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of the remaining patients on whom a probe's regularisation or a fine-tuning's round is
    chosen, unless the source names a val split."""

    leave_out: Annotated[tuple[str, ...], AfterValidator(_distinct)] = ()
    """Acquisition sites, as the data name them, of which nobody learns in a simulated pre-training:
    their images neither train nor validate nor count in a floor. Their test patients are told of
    by themselves."""

    preparation: Preparation | None = None
    """How every data set must have been prepared (confrere client prepare): a site whose own was
    prepared otherwise takes no part, and the release tells it. Absent: nothing is demanded."""

    seed: Seed = 0
    """Seed of the test split and of the spread over sites: the same in every repetition."""

    def sides(self, dims: int) -> tuple[int, ...]:
        """Return voxels along [Z] Y X of what an encoder sees; see `crop_sides`."""
        return (self.image_px,) * dims if self.crop_px is None else crop_sides(self.crop_px, dims)


def crop_sides(crop_px: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """Return the sides of a crop of images with so many axes; ConfigError where they do not fit."""
    if len(crop_px) not in (1, dims):
        fault = f"data.crop_px has {len(crop_px)} sides, and the images have {dims} axes"
        raise ConfigError([f"{fault}: give one number, or one for each axis."])
    return crop_px * dims if len(crop_px) == 1 else crop_px


Patterns = tuple[Annotated[str, Field(min_length=1)], ...]
"""Names of weights, as in ``state_dict``, with * for any part: ``encoder.stem.*``, ``*.bias``."""


@section
class Layerwise:
    """Train the encoder part by part over the rounds (LW-FedSSL, https://arxiv.org/abs/2401.11647).

    The rounds are divided evenly among the stages; what no stage names (projector, decoder) trains
    in all of them. What rests takes no gradient and no optimizer step; its update is sent as zeros,
    so that every round's update has the same names: no bytes are saved, and on the small encoders
    of ``tests/benchmarks/rules.py`` no time could be told.
    Deviations from the paper: the network runs at its full depth from the start, without
    calibration at the server, which has no image, and without alignment of representations.
    """

    stages: Annotated[tuple[Patterns, ...], Field(min_length=1)]
    """What each stage trains: a list of patterns a stage, first stage first."""

    progressive: bool = False
    """Whether earlier stages' parts go on training (Prog-FedSSL), or rest."""


@section
class Train:
    """How a site trains in a round."""

    batch: Count = 64
    """Images in a step; a site with fewer uses all that it has."""

    steps_per_round: Count | None = None
    """Optimizer steps in a round; leave it out to count in epochs."""

    epochs_per_round: Annotated[float, Field(gt=0)] | None = None
    """Passes over the site's images in a round; 1 when neither this nor the steps are given."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay, on matrices and kernels only (https://arxiv.org/abs/1711.05101)."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    """Decay of AdamW's two moments."""

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the whole run over which the rate rises; then a cosine to zero."""

    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of a step's gradient; absent means no limit."""

    optimizer_state: Literal["keep", "reset"] = "keep"
    """Whether a site keeps its optimizer's moments from round to round."""

    device: str = "auto"
    """Where to train: auto (a GPU when there is one), cpu, cuda, cuda:1, ..."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto means bfloat16 autocast on a GPU, float32 on a CPU."""

    layerwise: Layerwise | None = None
    """Which parts train in which rounds; absent means all in every round."""

    compile: bool = False
    """Whether torch.compile rewrites the network; it pays on long runs on a GPU only."""

    # On the field and not on the section: it is then told beside every other fault.
    @field_validator("epochs_per_round")
    @classmethod
    def _one_measure(cls, epochs: float | None, others: ValidationInfo) -> float | None:
        if epochs is not None and others.data.get("steps_per_round") is not None:
            raise ValueError("give steps_per_round or epochs_per_round, not both")
        return epochs


@section
class Federation:
    """How rounds are called and updates joined."""

    rounds: Count = 10
    """How often the sites are asked."""

    cohort: Share = 1.0
    """Share of the sites asked in a round, drawn anew each time; at least one."""

    quorum: Share = 0.5
    """Share of the asked sites whose valid updates make a round count; 1 waits for every site."""

    min_sites: Count = 2
    """Approved sites without which a deployed federation holds no round; simulations ignore it."""

    deadline_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    """Longest time that a deployed round waits for a site; the server learns a shorter one."""

    rule: Choice = Field(default_factory=lambda: Named(name="mean", knobs={}))
    """How updates are joined (mean, median, ldawa_norm, ...; see: confrere rules)."""

    mixing: Choices = ()
    """What sites do beside the method because they train among others (see: confrere rules), in
    this order: each a name, or a mapping with its knobs."""

    personal: Patterns = ()
    """Weights that never leave a site, by name, with * for any part: ``projector.*``. Each site
    trains its own; a release holds their initial values."""

    limits: Limits = Field(default_factory=Limits)
    """What one site may do to the joined update."""

    step: Choice = Field(default_factory=lambda: Named(name="plain", knobs={}))
    """What the server does with the joined update (plain, momentum, adam, yogi)."""

    keep_checkpoints: Count = 3
    """How many rounds stay on disk to resume from."""


@section
class Run:
    """One configured training of one stage."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """What to call it: letters, digits, dot, dash, underscore."""

    stage: Literal["pretrain", "finetune", "describe"] = "pretrain"
    """What is trained: an encoder without labels, or encoder and head for a task (finetune); or
    nothing, as sites only tell what images they have (describe)."""

    seeds: Annotated[tuple[Seed, ...], AfterValidator(_differing)] = (0,)
    """One repetition of the whole run for each seed; figures are given with intervals over them."""

    data: Data
    """Which images."""

    encoder: Choice = Field(default_factory=lambda: Named(name="resnet", knobs={}))
    """The network that is wanted (see: confrere encoders)."""

    method: Choice = NO_METHOD
    """The self-supervised method (see: confrere methods); a run that fine-tunes needs none."""

    augment: Augmentation = Field(default_factory=Augmentation)
    """What may be changed in an image without changing what it means."""

    train: Train = Field(default_factory=Train)
    """How a site trains."""

    federation: Federation = Field(default_factory=Federation)
    """How rounds are called."""

    privacy: Privacy | None = None
    """What a site's patients are promised; absent means that updates leave as they are."""

    secure_aggregation: SecureAggregation | None = None
    """Whether the coordinator learns only the sum of updates; absent means it sees each of them."""

    floors: Literal["none", "cheap", "all"] = "cheap"
    """What stands beside the result: cheap = raw pixels and the untrained encoder; all = also each
    site alone and all images in one place."""

    finetune: Finetune | None = None
    """What is learned from labels, and how; used where stage is finetune."""

    describe: Describe | None = None
    """What is told of images; used where stage is describe."""

    @field_validator("method")
    @classmethod
    def _needed_to_pretrain(cls, method: Named, others: ValidationInfo) -> Named:
        if method == NO_METHOD and others.data.get("stage") == "pretrain":
            raise PydanticCustomError("missing", "it has no default")
        return method

    @field_validator("finetune")
    @classmethod
    def _sound(cls, finetune: Finetune | None, others: ValidationInfo) -> Finetune | None:
        if others.data.get("stage") != "finetune":
            return finetune
        if finetune is None:
            raise PydanticCustomError("missing", "it has no default")
        data = others.data.get("data")
        if data is not None and data.crop_px is not None and finetune.task.name in UNCUT:
            raise ValueError(
                f"task '{finetune.task.name}' knows boxes of whole images, which are not cut with "
                "crops: leave out data.crop_px"
            )
        if others.data.get("privacy") is not None:
            finetune.must_hide_labels()
        return finetune

    @field_validator("describe")
    @classmethod
    def _alone(cls, describe: Describe | None, others: ValidationInfo) -> Describe | None:
        if others.data.get("stage") != "describe":
            return describe
        for promise in ("privacy", "secure_aggregation"):
            if others.data.get(promise) is not None:
                raise ValueError(f"stage describe has no {promise} yet: leave out {promise}")
        federation = others.data.get("federation")
        if federation is not None and federation.rounds != 1:
            raise ValueError("stage describe has one round: set federation.rounds to 1")
        return describe or Describe()
