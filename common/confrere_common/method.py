"""The contract of a self-supervised method: an encoder, views of images, a loss for each image.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

import confrere_common.methods
from confrere_common.encoder import Encoder
from confrere_common.family import Family, Named
from confrere_common.parts.imagined import MADE

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Stored images (uint8 or uint16, BC[Z]YX) -> augmented, normalised floats of the same size."""


KNOWN = ("label", "mask", "boxes", "target", "findings", "prior")
"""What a method may want to know of an image: its class (int64, -1 where unknown), its mask
(int64, [Z] Y X), its boxes (float32, padded with NaN), what the method itself computes of it, which
findings it has (float32, K, NaN where unknown), or the logarithm of how often each class occurs at
its site (float32, K, minus infinity for a class that it lacks)."""


OWN_FIGURES = ("upright", "dropped")
"""Figures that methods tell of their own task. upright: how surely turns are told, 0 as by chance,
1 always. dropped: share of views that teach nothing, as what they ask cannot be asked of them."""


class Method(nn.Module, ABC):
    """A self-supervised objective around one encoder.

    An implementation is built as ``Method(config, encoder)``; all its randomness comes in through
    the generator given to ``views``, so that ``losses`` is a function of the views alone.
    """

    Config: ClassVar[type]

    per_image: ClassVar[bool]
    """Whether an image's loss depends on that image alone; differential privacy needs it."""

    local: ClassVar[tuple[str, ...]] = ()
    """Names of submodules that never leave the site (a moving-average teacher)."""

    wants: tuple[str, ...] = ()
    """What it must know of an image beside its pixels, of ``KNOWN``; most need nothing."""

    encoder_kinds: ClassVar[tuple[str, ...] | None] = None
    """Names of the encoders that it can train; None means all."""

    beside: ClassVar[tuple[str, ...]] = ()
    """Places of submodules that a release holds beside the encoder, where no U-Net's way up is
    trained: those of a task of the same kind may start from them."""

    figures: ClassVar[tuple[str, ...]] = ()
    """Figures of its own that it tells at a round's end, of ``OWN_FIGURES``; most have none."""

    kinds: int = 1
    """Classes that it tells apart, where it is told of any."""

    class_names: tuple[str, ...] = ()
    """What the run calls them, where it does: labels then come numbered so, at every site."""

    encoder: Encoder

    personal: frozenset[str] = frozenset()
    """Names of weights that a run keeps at each site; ``build_model`` sets it."""

    @abstractmethod
    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw and apply all that is random; the first axis of every view is the image's."""

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return the views, given one tensor (B, ...) for each of ``wants``; what trainers call."""
        if known:
            name = type(self).__name__
            raise TypeError(
                f"{name} wants {', '.join(self.wants)} and must take it: informed_views"
            )
        return self.views(images_BCZYX, augment, generator)

    def target(self, image_CZYX: Tensor) -> Tensor:  # noqa: ARG002  (for those that override it)
        """Return what is computed once for a stored image, if 'target' is wanted; sites keep it."""
        raise TypeError(f"{type(self).__name__} wants a target and must compute it: target")

    @abstractmethod
    def losses(self, *views: Tensor) -> Tensor:
        """Return one loss for each image, shape (B,); never a mean."""

    def told(self, *views: Tensor) -> Mapping[str, float]:  # noqa: ARG002
        """Return its ``figures``, of these views of a few images."""
        return {}

    def start_local(self) -> None:
        """Initialise what stays at the site from the shared weights just received."""

    def after_step(self, progress: float) -> None:
        """Do what follows an optimizer step; *progress* runs from 0 to 1 over the whole run."""

    def pace(self, name: str) -> float:  # noqa: ARG002  (a task's layers differ by name)
        """Return the parameter's learning rate over that of the run."""
        return 1.0

    def is_shared(self, name: str) -> bool:
        """Say whether the parameter called *name* (as in ``state_dict``) travels to the server."""
        return name.split(".", 1)[0] not in self.local and name not in self.personal


METHODS: Family[type[Method]] = Family("method", confrere_common.methods)


def build_method(named: Named, encoder: Encoder) -> Method:
    """Return a fresh method around *encoder*; weights come from torch's global generator."""
    make: Any = METHODS.member(named.name)
    method: Method = make(METHODS.configure(named), encoder)
    return method


def imagined_views(
    method: Method, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return views with made-up facts (``imagined``), for probes of the loss."""
    count, size = len(images_BCZYX), tuple(images_BCZYX.shape[2:])

    def made(kind: str) -> Tensor:
        if kind == "target":
            return torch.stack([method.target(one.cpu()) for one in images_BCZYX])
        return MADE[kind](count, size, method.kinds, generator)

    known = [made(kind).to(images_BCZYX.device) for kind in method.wants]
    return method.informed_views(images_BCZYX, known, augment, generator)
