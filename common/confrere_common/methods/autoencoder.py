"""Autoencoder: an image is painted again from little of it. https://arxiv.org/abs/2203.04107.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.bottleneck import Bottleneck, missed
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
        self.decoder = Bottleneck(encoder, compression=config.compression, width=config.width)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images, which are also the targets."""
        return (augment(images_BCZYX, generator),)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean squared error over all voxels: 0 if painted exactly."""
        (images_BCZYX,) = views
        painted_BCZYX = self.paint(images_BCZYX)
        return missed(painted_BCZYX, images_BCZYX)

    def paint(self, images_BCZYX: Tensor) -> Tensor:
        """Return the images as they come back through the narrow map."""
        painted_BCZYX: Tensor = self.decoder(self.encoder.maps(images_BCZYX)[-1])
        return painted_BCZYX
