"""LeJEPA: views agree, and features look Gaussian on every line. https://arxiv.org/abs/2511.08544.

Shapes: B images, V views, C channels, [Z] Y X voxels (Z only in 3-D), F features, S slices.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.crops import local_crop
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.parts.normality import sigreg
from confrere_common.section import section

GLOBAL = 2
"""Views of the whole image."""


class Lejepa(Method):
    """It has no teacher, no predictor and no negatives; a test of normality forbids collapse.

    Two deviations from the authors' code: the projector has LayerNorm in the place of batch
    normalisation, and local views are enlarged to the size that the encoder takes. Written from
    the formula: their code has a licence of its own.
    """

    per_image = False

    test: Callable[[Tensor, Tensor], Tensor]
    """How far features (V, B, F) are from a Gaussian along slices (F, S): ``sigreg``, unless mixing
    fedsigreg asks it of all sites together."""

    @section
    class Config:
        """Defaults are those of the authors' code, but for the widths and the local views."""

        normality: Annotated[float, Field(ge=0, le=1)] = 0.02
        """Weight of the test of normality (SIGReg); views that differ weigh the rest. Authors: 0.02
        to 0.05."""

        slices: Annotated[int, Field(ge=1)] = 256
        """Random directions along which features are tested, new ones at each step. Authors: 256 to
        1024."""

        local_views: Annotated[int, Field(ge=0)] = 2
        """Views of small parts, which enter both terms. Authors: 6; each costs as much as a whole
        image here."""

        local_scale: tuple[
            Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]
        ] = (0.05, 0.3)
        """Least and most of an image that a local view shows. Authors: 0.05 to 0.3."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the layers of the projector. Authors: 2048."""

        out: Annotated[int, Field(ge=2)] = 64
        """Features that are tested. Authors: 16 to 128."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = perceptron((encoder.width, config.hidden, config.hidden, config.out))
        self.test = sigreg

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return two whole views, the local ones, and the slices (B, F, S), alike for all images.

        The slices are among the views so that the loss is a function of these alone.
        """
        shown = [augment(images_BCZYX, generator) for _ in range(GLOBAL)]
        for _ in range(self.config.local_views):
            whole_BCZYX = augment(images_BCZYX, generator)
            shown.append(local_crop(whole_BCZYX, self.config.local_scale, generator))
        shape = (self.config.out, self.config.slices)
        slices_FS = normalize(torch.randn(shape, generator=generator), dim=0).to(shown[0])
        return (*shown, slices_FS.expand(len(images_BCZYX), -1, -1))

    def losses(self, *views: Tensor) -> Tensor:
        """Return each image's spread over its views plus the batch's distance from a Gaussian."""
        *shown, slices_BFS = views
        found_VBF = torch.stack(in_one_pass(self._project, *shown))
        apart_B = (found_VBF - found_VBF.mean(0)).square().mean((0, 2))
        weight = self.config.normality
        return weight * self.test(found_VBF, slices_BFS[0]) + (1 - weight) * apart_B

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projections_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projections_BF
