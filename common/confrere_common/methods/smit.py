"""SMIT: repaint what is hidden, see it as a teacher does. https://arxiv.org/abs/2205.10342.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N cells of the coarsest map, M
channels of it, F features that are compared.
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.decoder import Sides
from confrere_common.parts.heads import Learned, Scaled, calibrate, perceptron, whole
from confrere_common.parts.hiding import block_side, cells_of, hidden_share
from confrere_common.parts.masking import hidden_blocks, over_hidden
from confrere_common.section import section


class Smit(Method):
    """Masked images with two tasks beside: places and the whole are to look as a teacher sees them.

    This is the variant without centring, in which each image stands alone, so that it may be
    private. The paper compares distributions over 8192 prototypes, whose centre is a mean over
    images; without a centre one prototype would win always. In its place a predictor foretells
    the teacher's features by their cosine, as in BYOL. Further deviations: blocks are painted over
    at the input, for every encoder, not for Swin alone; the head that repaints is linear on every
    map in place of the coarsest; a place counts by how much of it is hidden; two augmentations
    stand for two crops of one region. The teacher's momentum rises over the whole run (in the
    paper's code it starts anew each epoch).
    """

    per_image = True
    local = ("teacher",)

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.7
        """Part of the blocks that is hidden. Paper: 0.7."""

        block: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a block. Left out, it is the power of two nearest to a seventh
        of the longest side: 16 at 96 voxels as in the paper, 8 at 64."""

        patch_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the hidden places' features. Paper: 0.1."""

        image_weight: Annotated[float, Field(gt=0)] = 0.1
        """Weight of the whole image's features, told from the other view. Paper: 0.1."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the two layers of projectors and predictors."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features that are compared."""

        momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
        """How much of itself the teacher keeps at the first step; 1 at the last. Paper: 0.996."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.block = block_side(config.block, encoder.size, "smit")
        self.paint = Learned(encoder.channels, *(1,) * len(encoder.size))
        self.head = Sides(encoder, encoder.channels)
        hidden, out = config.hidden, config.out
        project, tell = (encoder.width, hidden, out), (out, hidden, out)
        self.of_patches = perceptron(project, norm=Scaled, norm_last=True)
        self.of_images = perceptron(project, norm=Scaled, norm_last=True)
        self.tell_patches = perceptron(tell, norm=Scaled)
        self.tell_images = perceptron(tell, norm=Scaled)
        calibrate(encoder, self.of_patches, self.tell_patches)
        calibrate(encoder, self.of_images, self.tell_images)
        self.teacher = teacher.teacher_of(*self._students())

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
        """Return the mean over both views of three terms: voxels, places, whole; 0 at best."""
        one_BCZYX, two_BCZYX, hidden_one, hidden_two = views
        images_BCZYX = torch.cat([one_BCZYX, two_BCZYX])
        hidden_B1ZYX = torch.cat([hidden_one, hidden_two])
        maps = self.encoder.maps(self.masked(images_BCZYX, hidden_B1ZYX))
        guesses_BCZYX = whole(self.head(maps))
        errors_BCZYX = (guesses_BCZYX - images_BCZYX.to(guesses_BCZYX.dtype)).abs()
        with torch.no_grad():
            due_BNF, due_BF = self.targets(images_BCZYX)
        told_BNF = self.tell_patches(self.of_patches(cells_of(maps[-1])))
        told_BF = self.tell_images(self.of_images(self.encoder.pool(maps[-1])))
        places_B = over_hidden(_apart(told_BNF, due_BNF), hidden_share(hidden_B1ZYX, maps[-1]))
        whole_B = _apart(told_BF, due_BF.roll(len(one_BCZYX), 0))
        weigh = self.config
        losses_B = over_hidden(errors_BCZYX, hidden_B1ZYX)
        losses_B = losses_B + weigh.patch_weight * places_B + weigh.image_weight * whole_B
        return losses_B.view(2, -1).mean(0)

    def masked(self, images_BCZYX: Tensor, hidden_B1ZYX: Tensor) -> Tensor:
        """Return the images with what is hidden painted over."""
        return torch.where(hidden_B1ZYX, self.paint(images_BCZYX), images_BCZYX)

    @torch.no_grad()
    def targets(self, images_BCZYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's features of each place (B, N, F) and of whole images (B, F)."""
        seeing = cast(Encoder, self.teacher[0])
        coarsest = seeing.maps(images_BCZYX)[-1]
        return self.teacher[1](cells_of(coarsest)), self.teacher[2](seeing.pool(coarsest))

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student, less and less as *progress* nears 1."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, *self._students(), kept=kept)

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student."""
        teacher.become(self.teacher, *self._students())

    def _students(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.of_patches, self.of_images


def _apart(told: Tensor, due: Tensor) -> Tensor:
    """Return one minus the cosine along the last axis: 0 to 2."""
    return 1 - cosine_similarity(whole(told), whole(due), dim=-1)
