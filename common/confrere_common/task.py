"""The contract of a task: an encoder and a head that learn from what people marked in images.

A task is trained by the very rounds that train a method: same losses for each image, same clip and
noise, same masks, same policy. What it adds is an answer for an image, which sites judge.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features, K classes.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import confrere_common.tasks
from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Family
from confrere_common.finetune import Finetune
from confrere_common.method import Augment, Method
from confrere_common.parts.lora import adapt

UNKNOWN_CLASSES = ("first", "second")
"""What stands for classes that no image has told yet, where only the size of a model matters."""


class FineTask(Method):
    """A head on an encoder, trained on labels.

    An implementation is built as ``Task(config, encoder, classes)``; whatever is not the encoder is
    its head. It says in ``wants`` what it must know of an image.
    """

    per_image = True

    marks: ClassVar[str] = "label"
    """What must be marked in an image for it to teach: label, mask or boxes."""

    classed: ClassVar[bool] = True
    """Whether classes must be known before it can be built."""

    tells_apart: ClassVar[bool] = True
    """Whether its loss tells classes apart, so that one that a site lacks can be left out."""

    compares: ClassVar[bool] = False
    """Whether it is judged by how an image lies beside those that were learned from."""

    classes: tuple[str, ...]

    def __init__(self, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes
        self.kinds = len(classes)
        self._paces: Mapping[str, float] = {}

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images; what is known of them comes in by ``informed_views``."""
        return (augment(images_BCZYX, generator),)

    @abstractmethod
    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and what is to be learned of each."""

    @abstractmethod
    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return the answer for normalised images, in float32; the first axis is the image's."""

    def pace(self, name: str) -> float:
        """Return the parameter's learning rate over that of the run."""
        return self._paces.get(name, 1.0)

    def settle(self, finetune: Finetune) -> None:
        """Let move what the run's mode lets move, each layer at its pace."""
        reach(self.encoder, finetune)
        self._paces = {f"encoder.{k}": v for k, v in paces(self.encoder, finetune).items()}

    def of_head(self) -> frozenset[str]:
        """Return the names of all weights that are not the encoder's."""
        return frozenset(name for name in self.state_dict() if not name.startswith("encoder."))


TASKS: Family[type[FineTask]] = Family("task", confrere_common.tasks)


def build_task(finetune: Finetune, encoder: Encoder) -> FineTask:
    """Return a fresh task around *encoder*; weights come from torch's global generator."""
    named = finetune.task
    make: Any = TASKS.member(named.name)
    _must_have_one_class(finetune, make.marks)
    _must_tell_classes_apart(finetune, make)
    if make.classed and finetune.classes is None:
        raise ConfigError(
            ["finetune.classes is open: name the classes, or let images of one place settle them."]
        )
    task: FineTask = make(TASKS.configure(named), encoder, finetune.classes or ())
    task.settle(finetune)
    return task


def _must_have_one_class(finetune: Finetune, marks: str) -> None:
    """Raise ConfigError where images are to be drawn by their class, and have none or several."""
    several = finetune.task.knobs.get("kind") == "multilabel"
    if finetune.sampling != "plain" and (marks != "label" or several):
        raise ConfigError(
            [
                f"finetune.sampling is '{finetune.sampling}', which draws images by their class; "
                f"an image of task '{finetune.task.name}' has "
                f"{'several findings' if several else f'{marks} and no class'}: write plain"
            ]
        )


def _must_tell_classes_apart(finetune: Finetune, make: type[FineTask]) -> None:
    """Raise ConfigError where classes are to be left out of a loss that has none."""
    if finetune.missing == "mask" and not make.tells_apart:
        raise ConfigError(
            [
                "finetune.missing is 'mask', which leaves the classes that a site lacks out of its "
                f"loss; that of task '{finetune.task.name}' tells no classes apart: take the key "
                "out"
            ]
        )


def layers(encoder: Encoder) -> dict[str, int]:
    """Return parameter -> how deep it lies: 0 meets the image, the largest gives the features.

    Each member of the encoder's first list of blocks is a layer; what comes before is layer 0, what
    comes behind belongs to the last.
    """
    blocks = [n for n, child in encoder.named_children() if isinstance(child, nn.ModuleList)]

    def place(name: str) -> str:
        child, _, rest = name.partition(".")
        return f"{child}.{rest.partition('.')[0]}" if child in blocks else ""

    names = [name for name, _ in encoder.named_parameters()]
    runs = [(key, list(part)) for key, part in groupby(names, place)]
    depths, depth = {}, 0
    for number, (key, part) in enumerate(runs):
        depth += bool(key and number)
        depths.update(dict.fromkeys(part, depth))
    return depths


def reach(encoder: Encoder, finetune: Finetune) -> None:
    """Freeze what the mode leaves as it is, and put additions where it has them."""
    depths = layers(encoder)
    first = {"full": 0, "last": max(depths.values()) - finetune.last + 1}.get(finetune.mode)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(first is not None and depths[name] >= first)
    if finetune.mode == "lora":
        adapt(encoder, finetune.rank)


def paces(encoder: Encoder, finetune: Finetune) -> Mapping[str, float]:
    """Return encoder parameter -> its rate over the run's; the last layer and the head have 1."""
    if finetune.mode not in ("full", "last"):
        return {}
    depths = layers(encoder)
    deepest = max(depths.values())
    return {name: float(finetune.decay ** (deepest - depth)) for name, depth in depths.items()}
