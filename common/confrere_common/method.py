"""The contract of a self-supervised method: an encoder, views of images, a loss for each image.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

import confrere_common.methods
from confrere_common.encoder import Encoder
from confrere_common.family import Family, Named

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Stored images (uint8 or uint16, BC[Z]YX) -> augmented, normalised floats of the same size."""


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

    encoder_kinds: ClassVar[tuple[str, ...] | None] = None
    """Names of the encoders that it can train; None means all."""

    encoder: Encoder

    @abstractmethod
    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw and apply all that is random; the first axis of every view is the image's."""

    @abstractmethod
    def losses(self, *views: Tensor) -> Tensor:
        """Return one loss for each image, shape (B,); never a mean."""

    def start_local(self) -> None:
        """Initialise what stays at the site from the shared weights just received."""

    def after_step(self, progress: float) -> None:
        """Do what follows an optimizer step; *progress* runs from 0 to 1 over the whole run."""

    def is_shared(self, name: str) -> bool:
        """Say whether the parameter called *name* (as in ``state_dict``) travels to the server."""
        return name.split(".", 1)[0] not in self.local


METHODS: Family[type[Method]] = Family("method", confrere_common.methods)


def build_method(named: Named, encoder: Encoder) -> Method:
    """Return a fresh method around *encoder*; weights come from torch's global generator."""
    make: Any = METHODS.member(named.name)
    method: Method = make(METHODS.configure(named), encoder)
    return method
