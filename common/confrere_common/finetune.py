"""The section ``finetune`` of a run: a task, how deep training reaches, whence, on which labels.

What leans on how often a class occurs at a site (sampling, prior, a share of labels) lets one
patient's label move the others' part in a step: with ``privacy`` it is refused.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from confrere_common.family import Choice, Named
from confrere_common.section import section

PER_CLASS = re.compile(r"(\d+) per class")


def _labels(value: float | str) -> float | str:
    if isinstance(value, str):
        found = PER_CLASS.fullmatch(value.strip())
        if found is None or int(found[1]) < 1:
            raise ValueError("give a share of the patients, above 0 to 1, or 'N per class'")
        return f"{int(found[1])} per class"
    if not 0 < value <= 1:
        raise ValueError("a share of the patients is above 0, and 1 at most")
    return float(value)


def _classes(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is not None and (len(set(names)) != len(names) or not names or "" in names):
        raise ValueError("name each class once, and at least one")
    return names


@section
class Evaluation:
    """Sites score the joined model on patients whom nobody learned from, and tell counts in cells.

    What is held out are the patients that a site's source marks 'test'; where it marks none,
    data.test_share of each class's patients, or of those who have a mask. Nobody is held out of
    whom no count could tell, as they are fewer than min_cell. Other sites learn nothing of them,
    nor does anybody see a score.
    """

    every: Annotated[int, Field(ge=1)] | None = None
    """Rounds between two evaluations; absent: once, after the last round."""

    min_cell: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Patients below which no count leaves a site, nor the mean by which a round is chosen (where
    images are ranked, so many of each class); the site's own min_cell may be larger."""


@section
class Finetune:
    """Defaults train everything, deep layers faster than shallow ones, on all labels."""

    task: Choice = Field(default_factory=lambda: Named(name="classification", knobs={}))
    """What is learned (see: confrere tasks)."""

    mode: Literal["frozen", "last", "full", "lora"] = "full"
    """What moves: the head alone, also the encoder's last layers, all of it, or low-rank additions
    to a transformer's attention (https://arxiv.org/abs/2106.09685)."""

    last: Annotated[int, Field(ge=1)] = 1
    """Layers of the encoder that move in mode last, counted from its end."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Learning rate of a layer over that of the layer behind it, in mode full or last; 1 is the
    same everywhere (https://arxiv.org/abs/2106.08254)."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the additions in mode lora."""

    start: str | None = None
    """An encoder.safetensors with its card beside it, a release or one of ours; the path starts at
    the run's file and never travels. Absent means from scratch."""

    start_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that file, filled in when it is read; if given, the file must have it."""

    start_decoder: bool = False
    """Whether segmentation also starts from the U-Net's way up that lies beside the encoder, where
    its training made one (medsass, resection, maxtree, spark, simmim with decoder: unet, an earlier
    segmentation), and anomaly from what foretells maps (heteroae, an earlier anomaly); the head
    must be shared. Off: segmentation gained nothing by it in four comparisons of four."""

    start_decoder_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the decoder's file, filled in when it is read; if given, the file must have it."""

    head: Literal["shared", "local"] = "shared"
    """Whether the head travels or stays at its site, so that only the encoder is joined."""

    classes: Annotated[tuple[str, ...] | None, AfterValidator(_classes)] = None
    """Names of the classes in their order, agreed over all sites; absent: as the images have them,
    which a simulation and a single site can tell."""

    labels: Annotated[float | str, AfterValidator(_labels)] = 1.0
    """Labels that are used: a share of each class's patients (0.01, 0.1, 1), or 'N per class' for N
    patients of each class. Fewer are always among more."""

    sampling: Literal["plain", "sqrt", "balanced"] = "plain"
    """How often rare classes are drawn: as they occur, by the root of that, or all the same. For
    tasks in which an image has one class."""

    missing: Literal["mask", "keep"] | None = None
    """What becomes of classes that a site has no image, mask or box of. mask (so it is where the
    key is absent): left out of its loss, so that it does not teach the others that there is no such
    class (https://doi.org/10.1145/3447548.3467254). keep: they stay. Masks and boxes do not tell
    what is absent from what nobody annotated; keep is better where every site looked for all, as
    images then also teach where a class is not. What it is for each task: docs/federation.md."""

    patience: Annotated[int, Field(ge=1)] | None = 10
    """Rounds without a better validation score after which training ends; null: after the last.
    The best round answers, or is published. In a federation each site scores its own validation
    patients and tells one mean where they are evaluation.min_cell or more. Nothing ends early, and
    the last round is published, with privacy, where weights stay at sites, with evaluation: null,
    and where no site has enough of them."""

    evaluation: Evaluation | None = Field(default_factory=Evaluation)
    """How the sites of a federation score what they trained; null: not at all, and no round is
    chosen (patience). A run with privacy has none, since its counts would leave without noise."""

    @property
    def normal(self) -> int | None:
        """Return which of the classes the task calls normal; None where it calls none so."""
        name, classes = self.task.knobs.get("normal"), self.classes or ()
        return classes.index(name) if name in classes else None

    def must_hide_labels(self) -> None:
        """Raise ValueError where one patient's label would move another's part in a step."""
        odd = {
            "sampling: plain": self.sampling != "plain",
            "missing: keep": self.missing != "keep",
            "labels: 1.0": self.labels != 1.0,
            "task.adjust: 0": bool(self.task.knobs.get("adjust")),
        }
        wanted = [text for text, wrong in odd.items() if wrong]
        if wanted:
            raise ValueError(
                "with privacy no patient's label may change another's part in a step: write "
                f"{', '.join(wanted)}"
            )
