"""SimSiam: each view predicts the other through a narrow predictor. https://arxiv.org/abs/2011.10566.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.heads import Scaled, calibrate, in_one_pass, perceptron
from confrere_common.section import section


class Simsiam(Method):
    """It needs neither negatives nor a teacher, but of all methods it collapses most easily.

    The paper's batch normalisation, which would tie images together, is replaced by learned gains
    and offsets, calibrated once on noise (``heads.calibrate``). That alone does not hold it: with
    AdamW it collapsed here within 50 steps at a learning rate of 1e-3, within 400 at 1e-4. It is
    kept for comparison; where the spread of the features shrinks, take BYOL.
    """

    per_image = True

    @section
    class Config:
        """Widths keep the paper's proportions (2048, 2048, 512) at a size for small encoders."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features in the three layers of the projector. Paper: 2048."""

        out: Annotated[int, Field(ge=2)] = 512
        """Features that are predicted. Paper: 2048."""

        bottleneck: Annotated[int, Field(ge=1)] = 128
        """Features in the middle of the predictor; a quarter of *out* in the paper."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        hidden, out = config.hidden, config.out
        self.encoder = encoder
        widths = (encoder.width, hidden, hidden, out)
        self.projector = perceptron(widths, norm=Scaled, norm_last=True)
        self.predictor = perceptron((out, config.bottleneck, out), norm=Scaled)
        calibrate(self.encoder, self.projector, self.predictor)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return 2 - cos - cos, 0 to 4: 0 if each view is foretold (twice the paper's, plus 2)."""
        one_BF, two_BF = in_one_pass(self._project, *views)
        guess_one_BF, guess_two_BF = in_one_pass(self.predictor, one_BF, two_BF)
        return _misses(guess_one_BF, two_BF.detach()) + _misses(guess_two_BF, one_BF.detach())

    def _project(self, images_BCZYX: Tensor) -> Tensor:
        projections_BF: Tensor = self.projector(self.encoder(images_BCZYX))
        return projections_BF


def _misses(guesses_BF: Tensor, targets_BF: Tensor) -> Tensor:
    return 1 - cosine_similarity(guesses_BF, targets_BF)
