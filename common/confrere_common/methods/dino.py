"""DINO: parts of an image are told from the whole by distillation. https://arxiv.org/abs/2104.14294.

Shapes: B images, V views, C channels, [Z] Y X voxels (Z only in 3-D), K prototypes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.crops import local_crop
from confrere_common.parts.distil import Centre, Prototypes, sharpened, surprise
from confrere_common.parts.heads import calibrate, in_one_pass
from confrere_common.section import section

GLOBAL = 2
"""Views of the whole image: all that the teacher sees."""


class Dino(Method):
    """Small crops must find the prototypes that a slow teacher finds in the whole image.

    Deviations: local crops are enlarged to the size that the encoder takes (``crops``), so they are
    fewer; the head is calibrated on noise, since it has no batch normalisation
    (``heads.calibrate``); the teacher's temperature does not rise. The centre is a mean over
    images of the site: it stays there, and images are coupled by it.

    Where one view does not foretell another, all distributions even out and the loss stays at the
    logarithm of ``prototypes``. Crops of a twentieth of a 32 px image did that here (drawn blobs,
    240 steps: the teacher's scores spread 0.022, without local crops 0.039): show more in
    ``local_scale``, or lower ``teacher_temperature``.
    """

    per_image = False
    local = ("teacher", "centre")

    @section
    class Config:
        """Defaults are those of the paper's code, but for the widths and the local crops."""

        local_crops: Annotated[int, Field(ge=0)] = 4
        """Small parts of each image that the student sees beside two wholes. Paper: 8."""

        local_scale: tuple[
            Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]
        ] = (0.05, 0.4)
        """Least and most of an augmented image that a local crop shows. Paper: 0.05 to 0.4."""

        prototypes: Annotated[int, Field(ge=2)] = 1024
        """Directions over which distributions are compared. Paper: 65536."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features in the layers of the head. Paper: 2048."""

        bottleneck: Annotated[int, Field(ge=2)] = 128
        """Features that are compared with the prototypes. Paper: 256."""

        student_temperature: Annotated[float, Field(gt=0)] = 0.1
        """Likenesses of the student are divided by it. Paper: 0.1."""

        teacher_temperature: Annotated[float, Field(gt=0)] = 0.04
        """Those of the teacher; lower is sharper. Paper: 0.04, rising to 0.07 in long runs."""

        centre_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
        """How much of the centre is kept at each step. Paper: 0.9."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.996."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head = Prototypes(
            encoder.width,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            count=config.prototypes,
        )
        calibrate(self.encoder, self.head.project)
        self.teacher = teacher.teacher_of(self.encoder, self.head)
        self.centre = Centre(config.prototypes, config.centre_momentum)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return two whole views, then the local crops, all augmented independently."""
        shown = [augment(images_BCZYX, generator) for _ in range(GLOBAL)]
        for _ in range(self.config.local_crops):
            whole_BCZYX = augment(images_BCZYX, generator)
            shown.append(local_crop(whole_BCZYX, self.config.local_scale, generator))
        return tuple(shown)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean cross-entropy of every view under each whole view but itself."""
        scores_VBK = in_one_pass(self._score, *views)
        with torch.no_grad():
            wholes_VBK = torch.stack(in_one_pass(self.teacher, *views[:GLOBAL]))
            targets_VBK = sharpened(self.centre(wholes_VBK), self.config.teacher_temperature)
        pairs = [
            surprise(target_BK, score_BK, self.config.student_temperature)
            for whole, target_BK in enumerate(targets_VBK)
            for view, score_BK in enumerate(scores_VBK)
            if view != whole
        ]
        return torch.stack(pairs).mean(0)

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student and the centre towards the last batch's."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, self.encoder, self.head, kept=kept)
        self.centre.step()

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student; forget the centre."""
        teacher.become(self.teacher, self.encoder, self.head)
        self.centre.reset()

    def _score(self, images_BCZYX: Tensor) -> Tensor:
        scores_BK: Tensor = self.head(self.encoder(images_BCZYX))
        return scores_BK
