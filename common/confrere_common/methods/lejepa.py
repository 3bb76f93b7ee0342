"""LeJEPA: views agree, and features look Gaussian on every line. https://arxiv.org/abs/2511.08544.

Shapes: B images, V views, C channels, [Z] Y X voxels (Z only in 3-D), F features, S slices,
K knots.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.crops import local_crop
from confrere_common.parts.heads import in_one_pass, perceptron
from confrere_common.section import section

GLOBAL = 2
"""Views of the whole image."""

KNOTS = 17
FARTHEST = 3.0
"""Frequencies at which characteristic functions are compared, from 0 to the farthest."""


class Lejepa(Method):
    """It has no teacher, no predictor and no negatives; a test of normality forbids collapse.

    Two deviations from the authors' code: the projector has LayerNorm in the place of batch
    normalisation, and local views are enlarged to the size that the encoder takes. Written from
    the formula: their code has a licence of its own.
    """

    per_image = False

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
        return weight * sigreg(found_VBF, slices_BFS[0]) + (1 - weight) * apart_B

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projections_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projections_BF


def sigreg(features_VBF: Tensor, slices_FS: Tensor) -> Tensor:
    """Return how far the features of each view are from a standard Gaussian, meaned over views.

    Along every slice the Epps-Pulley statistic: B times the integral over t in -3 to 3 of
    exp(-t^2 / 2) |phi(t) - exp(-t^2 / 2)|^2, phi the features' empirical characteristic function;
    by the trapezoid rule on 0 to 3, twice, since both halves are alike.
    """
    with torch.autocast(features_VBF.device.type, enabled=False):
        along_VBS = features_VBF @ slices_FS.to(features_VBF.dtype)
    knots_K = torch.linspace(0, FARTHEST, KNOTS, dtype=along_VBS.dtype, device=along_VBS.device)
    gaussian_K = (-knots_K.square() / 2).exp()
    angles_VBSK = along_VBS[..., None] * knots_K
    real_VSK, imaginary_VSK = angles_VBSK.cos().mean(1), angles_VBSK.sin().mean(1)
    errors_VSK = ((real_VSK - gaussian_K).square() + imaginary_VSK.square()) * gaussian_K
    integral = 2 * torch.trapezoid(errors_VSK, knots_K, dim=-1)
    return features_VBF.shape[1] * integral.mean()
