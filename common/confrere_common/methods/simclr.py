"""SimCLR: two views of an image find each other among all others. https://arxiv.org/abs/2002.05709.

Shapes: B images, V = 2B views, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.contrast import nt_xent
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section


class Simclr(Method):
    """Other images of the batch are its negatives: it does not collapse, but wants 64 or more."""

    per_image = False

    @section
    class Config:
        """Defaults are the paper's for small batches, but for the width."""

        temperature: Annotated[float, Field(gt=0)] = 0.2
        """Similarities are divided by it: a lower one looks harder at the nearest negatives. Paper:
        0.1 to 0.5; 0.2 suits batches up to 256."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the two layers of the projector. Paper: those of the encoder, 2048."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features that are compared. Paper: 128."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.encoder = encoder
        self.projector = perceptron((encoder.width, config.hidden, config.out))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return for each image the mean NT-Xent of its two views; 0 for a batch of one image."""
        one_BF, two_BF = in_one_pass(self._project, *views)
        return nt_xent(one_BF, two_BF, self.temperature)

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projections_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projections_BF
