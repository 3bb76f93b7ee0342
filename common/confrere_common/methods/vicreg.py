"""VICReg: views agree, features keep their spread and stay unalike. https://arxiv.org/abs/2105.04906.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section

FLOOR = 1e-4
"""Added to a variance before its root, as in the paper."""


class Vicreg(Method):
    """The spread of the features over a batch is part of the loss, so it cannot collapse unseen."""

    per_image = False

    @section
    class Config:
        """Weights are the paper's; the expander is narrower."""

        invariance: Annotated[float, Field(ge=0)] = 25.0
        """Weight of the mean squared difference between two views."""

        variance: Annotated[float, Field(ge=0)] = 25.0
        """Weight of each feature's lack of standard deviation below 1."""

        covariance: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the squared covariances between features."""

        expander: Annotated[int, Field(ge=2)] = 512
        """Features in the three layers of the expander. Paper: 8192, for batches of 2048."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expander = perceptron((encoder.width, *(config.expander,) * 3))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return each image's disagreement plus the batch's terms; the mean is the paper's loss.

        A batch of one image has no variance: its variance term is constant.
        """
        one_BF, two_BF = in_one_pass(self._expand, *views)
        apart_B = (one_BF - two_BF).square().mean(1)
        flat = lack_of_spread(one_BF) + lack_of_spread(two_BF)
        alike = likeness(one_BF) + likeness(two_BF)
        weigh = self.config
        return weigh.invariance * apart_B + weigh.variance * flat + weigh.covariance * alike

    def _expand(self, images_BCZYX: Tensor) -> Tensor:
        expanded_BF: Tensor = self.expander(self.encoder(images_BCZYX))
        return expanded_BF


def lack_of_spread(features_BF: Tensor) -> Tensor:
    """Return how far the features' standard deviations fall short of 1, on average: 0 to 1."""
    centred_BF = features_BF - features_BF.mean(0)
    variances_F = centred_BF.square().sum(0) / max(len(features_BF) - 1, 1)
    return relu(1 - (variances_F + FLOOR).sqrt()).mean()


def likeness(features_BF: Tensor) -> Tensor:
    """Return the squared covariances of different features, summed, over the number of features."""
    count, width = features_BF.shape
    with torch.autocast(features_BF.device.type, enabled=False):
        centred_BF = (features_BF - features_BF.mean(0)).float()
        covariances_FF = centred_BF.T @ centred_BF / max(count - 1, 1)
    squares_FF = covariances_FF.square()
    return (squares_FF.sum() - squares_FF.diagonal().sum()) / width
