"""Barlow Twins: features of two views correlate one to one. https://arxiv.org/abs/2103.03230.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section

FLOOR = 1e-5
"""Added to a variance before its root, as batch normalisation does in the authors' code."""


class Barlow(Method):
    """Features that all tell the same, or that tell nothing, cost as much as views that differ.

    It needs no negatives, but batches in which a correlation can be seen: 128 or more. The paper's
    batch normalisation inside the projector is LayerNorm here; that of the outputs is part of the
    loss, and stays.
    """

    per_image = False

    @section
    class Config:
        """The weight is the paper's; the projector is narrower."""

        redundancy: Annotated[float, Field(ge=0)] = 5e-3
        """Weight of the squared correlations between different features. Paper: 0.005."""

        projector: Annotated[int, Field(ge=2)] = 512
        """Features in the three layers of the projector. Paper: 8192, for batches of 2048."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.redundancy = config.redundancy
        self.encoder = encoder
        self.projector = perceptron((encoder.width, *(config.projector,) * 3))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the batch's loss for each of its images: a correlation belongs to no single one.

        A batch of one image has no correlation; its loss is constant, the number of features.
        """
        one_BF, two_BF = in_one_pass(self._project, *views)
        return redundancy_loss(one_BF, two_BF, self.redundancy).expand(len(one_BF))

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projections_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projections_BF


def redundancy_loss(one_BF: Tensor, two_BF: Tensor, weight: float) -> Tensor:
    """Return sum_i (1 - C_ii)^2 + weight * sum_i sum_j!=i C_ij^2, C the views' correlations."""
    with torch.autocast(one_BF.device.type, enabled=False):
        correlations_FF = _standard(one_BF).T @ _standard(two_BF) / len(one_BF)
    own_F = correlations_FF.diagonal()
    others = correlations_FF.square().sum() - own_F.square().sum()
    return (1 - own_F).square().sum() + weight * others.clamp(min=0)


def _standard(features_BF: Tensor) -> Tensor:
    """Return features with mean 0 and variance 1 over the batch."""
    centred_BF = features_BF - features_BF.mean(0)
    return centred_BF / (centred_BF.square().mean(0) + FLOOR).sqrt()
