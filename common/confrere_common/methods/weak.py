"""Weak supervision: name the class that came with an image. https://arxiv.org/abs/2203.04107.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.labels import Classes, count_of, label_losses, labelled, names_of
from confrere_common.section import section


class Weak(Method):
    """It is no self-supervision but its baseline: labels that cost nobody a reading train it.

    Such labels are a drug that was given, a code that was billed. An image without a label has a
    loss of 0. The cross-entropy is of the logits: the code of the paper put a softmax before it,
    which flattens the loss.
    """

    per_image = True
    wants = ("label",)

    @section
    class Config:
        """The paper had 21 cell lines treated with 31 drugs."""

        classes: Classes = 2
        """Names of the classes over all sites, as labels write them, such as [benign, malignant]: a
        site may then lack some. Or how many there are, where every site has every class."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.kinds, self.class_names = count_of(config.classes), names_of(config.classes)
        self.encoder = encoder
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
        """Return the cross-entropy of each image's class: 0 at best, and where it is unknown."""
        images_BCZYX, labels_B = views
        return label_losses(self.classifier(self.encoder(images_BCZYX)), labels_B)
