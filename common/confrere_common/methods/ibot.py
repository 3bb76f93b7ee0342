"""iBOT: hidden patches and the whole are told from a teacher. https://arxiv.org/abs/2111.07832.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N patches, D features of a token,
K prototypes.
"""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from confrere_common.encoder import Encoder
from confrere_common.encoders.vit import Vit
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.blocks import among, draw_blocks, patches_of
from confrere_common.parts.distil import Centre, Prototypes, sharpened, surprise
from confrere_common.parts.heads import Learned, calibrate, in_one_pass
from confrere_common.parts.masking import over_hidden
from confrere_common.patched import must_be_patched
from confrere_common.section import section


class Ibot(Method):
    """DINO with masked patches, whose prototypes the teacher tells: features of places, too.

    Deviations: the image token is the mean of all tokens, since the encoder has no class token;
    two whole views without local crops; every view hides one block of the same number of patches
    (the paper: half of the views, parts from 0.1 to 0.5); no batch normalisation, so the head is
    calibrated on noise. Centres are means over images of the site: they stay there, and images
    are coupled by them.
    """

    per_image = False
    local = ("teacher", "centre", "patch_centre")
    encoder_kinds = ("vit",)

    @section
    class Config:
        """Defaults are the paper's, but for the widths."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
        """Part of the patches that is hidden from the student. Paper: 0.1 to 0.5."""

        patch_weight: Annotated[float, Field(gt=0)] = 1.0
        """Weight of the hidden patches beside the whole image. Paper: 1."""

        prototypes: Annotated[int, Field(ge=2)] = 1024
        """Directions over which distributions are compared. Paper: 8192."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features in the layers of the head, which image and patches share. Paper: 2048."""

        bottleneck: Annotated[int, Field(ge=2)] = 128
        """Features that are compared with the prototypes. Paper: 256."""

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
        vit = must_be_patched(
            encoder,
            "ibot",
            "it masks patches inside the encoder, which '{}' does not have. Choose encoder vit, or "
            "method dino, which trains every encoder.",
        )
        self.config = config
        self.encoder = encoder
        self.cells = torch.Size(vit.grid).numel()
        self.hidden = min(patches_of(vit.grid, config.ratio), self.cells - 1)
        self.unseen = Learned(vit.dim)
        self.head = Prototypes(
            vit.dim, hidden=config.hidden, bottleneck=config.bottleneck, count=config.prototypes
        )
        calibrate(self.encoder, self.head.project)
        self.teacher = teacher.teacher_of(self.encoder, self.head)
        self.centre = Centre(config.prototypes, config.centre_momentum)
        self.patch_centre = Centre(config.prototypes, config.centre_momentum)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return every image twice, augmented independently, and which patches are hidden of each.

        Masks are (B, N), True where hidden.
        """
        shown = [augment(images_BCZYX, generator) for _ in range(2)]
        masks = [self._draw(len(images_BCZYX), generator).to(one.device) for one in shown]
        return (*shown, *masks)

    def _draw(self, images: int, generator: torch.Generator) -> Tensor:
        grid = cast(Vit, self.encoder).grid
        return among(draw_blocks(images, grid, self.hidden, 1, generator)[:, 0], self.cells)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the cross-entropy of the other view's image, plus that of the hidden patches."""
        one_BCZYX, two_BCZYX, hidden_one_BN, hidden_two_BN = views
        images_BCZYX = torch.cat([one_BCZYX, two_BCZYX])
        hidden_BN = torch.cat([hidden_one_BN, hidden_two_BN])
        whole_BK, patches_BNK = self._scores(self._masked(images_BCZYX, hidden_BN), self.head)
        with torch.no_grad():
            due_BK, due_BNK = self._targets(images_BCZYX)
        warmth = self.config.student_temperature
        crossed_B = surprise(due_BK.roll(len(one_BCZYX), 0), whole_BK, warmth)
        told_B = over_hidden(surprise(due_BNK, patches_BNK, warmth), hidden_BN)
        both_B = crossed_B + self.config.patch_weight * told_B
        return both_B.view(2, -1).mean(0)

    def _masked(self, images_BCZYX: Tensor, hidden_BN: Tensor) -> Tensor:
        """Return the student's encoded tokens, those that are hidden known by their place alone."""
        vit = cast(Vit, self.encoder)
        tokens_BND = vit.embed(images_BCZYX)
        unseen_BND = self.unseen(tokens_BND) + vit.positions_ND
        return vit.encode(torch.where(hidden_BN[..., None], unseen_BND, tokens_BND))

    def _targets(self, images_BCZYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's distributions of images and of all patches, unmasked."""
        vit = cast(Vit, self.teacher[0])
        scores_BK, scores_BNK = self._scores(
            vit.encode(vit.embed(images_BCZYX)), cast(Prototypes, self.teacher[1])
        )
        warmth = self.config.teacher_temperature
        whole_BK = sharpened(self.centre(scores_BK), warmth)
        return whole_BK, sharpened(self.patch_centre(scores_BNK), warmth)

    def _scores(self, tokens_BND: Tensor, head: Prototypes) -> tuple[Tensor, Tensor]:
        """Return scores of the images (B, K) and of their patches (B, N, K)."""
        (whole_BK,) = in_one_pass(head, tokens_BND.mean(1))
        (patches_BNK,) = in_one_pass(head, tokens_BND)
        return whole_BK, patches_BNK

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student and the centres towards the last batch's."""
        kept = teacher.momentum(self.config.momentum, progress)
        teacher.follow(self.teacher, self.encoder, self.head, kept=kept)
        self.centre.step()
        self.patch_centre.step()

    def start_local(self) -> None:
        """Make the teacher an exact copy of the student; forget the centres."""
        teacher.become(self.teacher, self.encoder, self.head)
        self.centre.reset()
        self.patch_centre.reset()
