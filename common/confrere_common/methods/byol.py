"""BYOL: a student predicts what its own moving average sees. https://arxiv.org/abs/2006.07733.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.heads import Scaled, calibrate, in_one_pass, perceptron
from confrere_common.section import section


class Byol(Method):
    """It has no negatives, so a hospital with few images can take part.

    Nothing in the loss forbids that all images look alike to it, so watch the spread of the
    features. The paper's batch normalisation, which helped against that, would tie images
    together; LayerNorm in its place collapsed within 50 steps here (loss 0.001, spread of the
    features 0.01 of 1). The perceptrons have learned gains and offsets instead, calibrated once
    on noise (``heads.calibrate``, after https://arxiv.org/abs/2010.10241): spread 0.25
    to 0.33 after 150 to 500 steps of AdamW at 1e-3 on dermatoscopy at 32 px, where the untrained
    encoder had 0.23 and SimCLR reached 0.5.
    """

    per_image = True
    local = ("teacher",)

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the two layers of projector and predictor. Paper: 4096."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features that are predicted. Paper: 256."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.996. A
        lower one lets the loss fall nearer to 0 in short runs."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.momentum = config.momentum
        self.encoder = encoder
        hidden, out = config.hidden, config.out
        self.projector = perceptron((encoder.width, hidden, out), norm=Scaled, norm_last=True)
        self.predictor = perceptron((out, hidden, out), norm=Scaled)
        calibrate(self.encoder, self.projector, self.predictor)
        self.teacher = teacher.teacher_of(self.encoder, self.projector)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently."""
        return augment(images_BCZYX, generator), augment(images_BCZYX, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return how badly each view foretells the teacher's sight of the other: 0 to 8."""
        guess_one_BF, guess_two_BF = in_one_pass(self._predict, *views)
        with torch.no_grad():
            target_one_BF, target_two_BF = in_one_pass(self.teacher, *views)
        return _misses(guess_one_BF, target_two_BF) + _misses(guess_two_BF, target_one_BF)

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student, less and less as *progress* nears 1."""
        kept = teacher.momentum(self.momentum, progress)
        teacher.follow(self.teacher, self.encoder, self.projector, kept=kept)

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student."""
        teacher.become(self.teacher, self.encoder, self.projector)

    def _predict(self, images_BCZYX: Tensor) -> Tensor:
        guesses_BF: Tensor = self.predictor(self.projector(self.encoder(images_BCZYX)))
        return guesses_BF


def _misses(guesses_BF: Tensor, targets_BF: Tensor) -> Tensor:
    """Return the squared distance of each guess to its target on the unit sphere: 0 to 4."""
    return 2 - 2 * cosine_similarity(guesses_BF, targets_BF)
