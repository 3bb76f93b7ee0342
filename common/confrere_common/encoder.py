"""The contract of an encoder: images to features, and to maps at several scales.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

import confrere_common.encoders
from confrere_common.family import Family, Named


class Encoder(nn.Module, ABC):
    """A network that turns images of one size into features; it holds no statistic of a batch.

    An implementation is built as ``Encoder(config, channels=C, size=(Y, X) or (Z, Y, X))``.
    """

    Config: ClassVar[type]

    channels: int
    """Channels C of an input image."""

    size: tuple[int, ...]
    """Voxels along [Z] Y X that an input has; its length says whether it is 2-D or 3-D."""

    width: int
    """Number of features F."""

    map_channels: tuple[int, ...]
    """Channels of each map, finest first."""

    map_strides: tuple[int, ...]
    """Input voxels per voxel of each map along each axis, finest first."""

    @abstractmethod
    def maps(self, images_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps at several scales, finest first, as segmentation needs them."""

    @abstractmethod
    def pool(self, map_BCZYX: Tensor) -> Tensor:
        """Return features of shape (B, F) from the coarsest map."""

    def forward(self, images_BCZYX: Tensor) -> Tensor:
        """Return features of shape (B, F)."""
        return self.pool(self.maps(images_BCZYX)[-1])


ENCODERS: Family[type[Encoder]] = Family("encoder", confrere_common.encoders)


def build_encoder(named: Named, *, channels: int, size: tuple[int, ...]) -> Encoder:
    """Return a fresh encoder; initial weights come from torch's global generator."""
    make: Any = ENCODERS.member(named.name)
    encoder: Encoder = make(ENCODERS.configure(named), channels=channels, size=size)
    return encoder
