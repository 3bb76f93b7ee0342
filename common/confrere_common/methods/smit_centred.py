"""SMIT as published: masked images, and a teacher's centred tokens. https://arxiv.org/abs/2205.10342.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N cells of the coarsest map, M
channels of it, K prototypes.
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.decoder import Sides
from confrere_common.parts.distil import Centre, Prototypes, sharpened, surprise
from confrere_common.parts.heads import Learned, calibrate, whole
from confrere_common.parts.hiding import block_side, cells_of, hidden_share
from confrere_common.parts.masking import hidden_blocks, over_hidden
from confrere_common.section import section


class SmitCentred(Method):
    """Hidden voxels are repainted; places and the whole fall to the prototypes the teacher names.

    The teacher's centres are means over the site's images: they stay there, and couple images, so
    that it cannot be private; method smit can. Deviations are those of smit (blocks painted over
    at the input for every encoder, a linear head on every map, places weighted by how much of them
    is hidden, two augmentations for two crops), and of dino: heads calibrated on noise, for there
    is no batch normalisation, and the teacher's temperature does not rise.
    """

    per_image = False
    local = ("teacher", "centre", "patch_centre")

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.7
        """Part of the blocks that is hidden. Paper: 0.7."""

        block: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a block. Left out, it is the power of two nearest to a seventh
        of the longest side: 16 at 96 voxels as in the paper, 8 at 64."""

        patch_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the hidden places' tokens. Paper: 0.1."""

        image_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the image token, told from the other view. Paper: 0.1."""

        prototypes: Annotated[int, Field(ge=2)] = 1024
        """Directions over which distributions are compared. Paper: 8192."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features in the layers of the two heads."""

        bottleneck: Annotated[int, Field(ge=2)] = 128
        """Features that are compared with the prototypes."""

        student_temperature: Annotated[float, Field(gt=0)] = 0.1
        """Likenesses of the student are divided by it. Paper: 0.1."""

        teacher_temperature: Annotated[float, Field(gt=0)] = 0.04
        """Those of the teacher; lower is sharper. Paper: 0.04, rising to 0.07."""

        centre_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
        """How much of the centres is kept at each step. Paper: 0.9."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.996."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.block = block_side(config.block, encoder.size, "smit_centred")
        self.paint = Learned(encoder.channels, *(1,) * len(encoder.size))
        self.head = Sides(encoder, encoder.channels)
        self.of_patches, self.of_images = (
            Prototypes(
                encoder.width,
                hidden=config.hidden,
                bottleneck=config.bottleneck,
                count=config.prototypes,
            )
            for _ in range(2)
        )
        calibrate(encoder, self.of_patches.project)
        calibrate(encoder, self.of_images.project)
        self.teacher = teacher.teacher_of(*self._students())
        self.centre = Centre(config.prototypes, config.centre_momentum)
        self.patch_centre = Centre(config.prototypes, config.centre_momentum)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently, and which voxels are hidden of each.

        Masks are (B, 1, [Z] Y X), True where hidden.
        """
        shown = [augment(images_BCZYX, generator) for _ in range(2)]
        masks = [hidden_blocks(one, self.block, self.config.ratio, generator) for one in shown]
        return (*shown, *masks)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean over both views of three terms: voxels, places, whole."""
        one_BCZYX, two_BCZYX, hidden_one, hidden_two = views
        images_BCZYX = torch.cat([one_BCZYX, two_BCZYX])
        hidden_B1ZYX = torch.cat([hidden_one, hidden_two])
        maps = self.encoder.maps(torch.where(hidden_B1ZYX, self.paint(images_BCZYX), images_BCZYX))
        guesses_BCZYX = whole(self.head(maps))
        errors_BCZYX = (guesses_BCZYX - images_BCZYX.to(guesses_BCZYX.dtype)).abs()
        with torch.no_grad():
            due_BNK, due_BK = self.targets(images_BCZYX)
        warmth = self.config.student_temperature
        told_BNK = whole(self.of_patches(cells_of(maps[-1])))
        told_BK = whole(self.of_images(self.encoder.pool(maps[-1])))
        places_BN = surprise(due_BNK, told_BNK, warmth)
        whole_B = surprise(due_BK.roll(len(one_BCZYX), 0), told_BK, warmth)
        places_B = over_hidden(places_BN, hidden_share(hidden_B1ZYX, maps[-1]))
        weigh = self.config
        losses_B = over_hidden(errors_BCZYX, hidden_B1ZYX)
        losses_B = losses_B + weigh.patch_weight * places_B + weigh.image_weight * whole_B
        return losses_B.view(2, -1).mean(0)

    @torch.no_grad()
    def targets(self, images_BCZYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's distribution for each place (B, N, K) and whole image (B, K)."""
        seeing = cast(Encoder, self.teacher[0])
        coarsest = seeing.maps(images_BCZYX)[-1]
        places_BNK = whole(self.teacher[1](cells_of(coarsest)))
        whole_BK = whole(self.teacher[2](seeing.pool(coarsest)))
        warmth = self.config.teacher_temperature
        return (
            sharpened(self.patch_centre(places_BNK), warmth),
            sharpened(self.centre(whole_BK), warmth),
        )

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student and the centres towards the last batch's."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, *self._students(), kept=kept)
        self.centre.step()
        self.patch_centre.step()

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student; forget the centres."""
        teacher.become(self.teacher, *self._students())
        self.centre.reset()
        self.patch_centre.reset()

    def _students(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.of_patches, self.of_images
