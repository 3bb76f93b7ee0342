"""Autoencoder and classifier in one loss: paint it again, name it. https://arxiv.org/abs/2203.04107.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), M channels of a map.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.bottleneck import Bottleneck, missed
from confrere_common.parts.labels import Classes, count_of, label_losses, labelled, names_of
from confrere_common.section import section


class Joint(Method):
    """What the paper calls regularised: labels keep an autoencoder's features to what matters.

    The code of the paper clears the encoder's gradient between the classifier's loss and the
    autoencoder's, so its encoder never heard of the classes; here one loss trains both. Its softmax
    before the cross-entropy is left out as well. Painted is as by method autoencoder, which this is
    without labels: the squared error of normalised images, where the paper took the cross-entropy
    of voxels in 0 to 1. An image without a label is only painted again.
    """

    per_image = True
    wants = ("label",)

    @section
    class Config:
        """The paper had 21 cell lines treated with 31 drugs."""

        classes: Classes = 2
        """Names of the classes over all sites, as labels write them, such as [benign, malignant]: a
        site may then lack some. Or how many there are, where every site has every class."""

        label_weight: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the classification beside the painting; 0 is an autoencoder."""

        compression: Annotated[float, Field(ge=1)] = 2.0
        """Voxels (times channels) of the image for each number that reaches the decoder, if the map
        has so many. Paper: 2 (64 x 64 pixels, 2048 numbers)."""

        width: Annotated[int, Field(ge=1)] = 16
        """Channels of the decoder at the size of the image; up to 8 times as many at coarser
        levels."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.kinds, self.class_names = count_of(config.classes), names_of(config.classes)
        self.encoder = encoder
        self.decoder = Bottleneck(encoder, compression=config.compression, width=config.width)
        self.classifier = nn.Linear(encoder.width, self.kinds)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images, and labels that say that nothing is known of them."""
        return labelled(images_BCZYX, (), augment, generator, self.kinds)

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and their labels; DataError when one is no class."""
        return labelled(images_BCZYX, known, augment, generator, self.kinds)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean squared error over all voxels plus the weighted class's cross-entropy."""
        images_BCZYX, labels_B = views
        coarsest_BMZYX = self.encoder.maps(images_BCZYX)[-1]
        painted_BCZYX: Tensor = self.decoder(coarsest_BMZYX)
        missed_B = missed(painted_BCZYX, images_BCZYX)
        named_B = label_losses(self.classifier(self.encoder.pool(coarsest_BMZYX)), labels_B)
        return missed_B + self.config.label_weight * named_B
