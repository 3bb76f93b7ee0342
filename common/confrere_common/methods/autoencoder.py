"""Autoencoder: an image is painted again from little of it. https://arxiv.org/abs/2203.04107.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from dataclasses import dataclass
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.decoder import Decoder
from confrere_common.section import section


class Autoencoder(Method):
    """The plainest of all: a floor under methods that hide or compare something.

    Only the coarsest map reaches the decoder, narrowed so that fewer numbers than voxels pass;
    finer maps would hand the image through. Deviations from the paper (Dmitrenko et al. 2022): the
    squared error of normalised images, where it took the cross-entropy of voxels in 0 to 1; and
    the decoder of segmentation, normalised in groups.
    """

    per_image = True

    @section
    class Config:
        """The compression is the paper's; the decoder suits any encoder."""

        compression: Annotated[float, Field(ge=1)] = 2.0
        """Voxels (times channels) of the image for each number that reaches the decoder, if the map
        has so many. Paper: 2 (64 x 64 pixels, 2048 numbers)."""

        width: Annotated[int, Field(ge=1)] = 16
        """Channels of the decoder at the size of the image; up to 8 times as many at coarser
        levels."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        stride, channels = encoder.map_strides[-1], encoder.map_channels[-1]
        voxels = stride ** len(encoder.size) * encoder.channels
        code = max(1, min(channels, round(voxels / config.compression)))
        convolution = nn.Conv3d if len(encoder.size) == 3 else nn.Conv2d
        self.narrow = convolution(channels, code, 1)
        sight = _Sight(size=encoder.size, map_channels=(code,), map_strides=(stride,))
        # All that a decoder asks of an encoder is the shape of its maps.
        self.decoder = Decoder(cast(Encoder, sight), encoder.channels, config.width)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images, which are also the targets."""
        return (augment(images_BCZYX, generator),)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean squared error over all voxels: 0 if painted exactly."""
        (images_BCZYX,) = views
        painted_BCZYX = self.paint(images_BCZYX)
        return (painted_BCZYX - images_BCZYX.to(painted_BCZYX.dtype)).square().flatten(1).mean(1)

    def paint(self, images_BCZYX: Tensor) -> Tensor:
        """Return the images as they come back through the narrow map."""
        painted_BCZYX: Tensor = self.decoder([self.code(images_BCZYX)])
        return painted_BCZYX.to(torch.promote_types(painted_BCZYX.dtype, torch.float32))

    def code(self, images_BCZYX: Tensor) -> Tensor:
        """Return the narrow map: all that the decoder sees."""
        # A ViT's map has its channels last: GroupNorm behind it could not be mapped over images.
        narrow: Tensor = self.narrow(self.encoder.maps(images_BCZYX)[-1].contiguous())
        return narrow


@dataclass(frozen=True, kw_only=True)
class _Sight:
    """The shape of a single map."""

    size: tuple[int, ...]
    map_channels: tuple[int, ...]
    map_strides: tuple[int, ...]
