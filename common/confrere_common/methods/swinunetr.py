"""SwinUNETR's tasks: paint, tell turns, find twins. https://arxiv.org/abs/2111.14791.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features, V = 2B views.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.bottleneck import Bottleneck
from confrere_common.parts.heads import in_one_pass
from confrere_common.parts.hiding import block_side
from confrere_common.parts.masking import hidden_blocks
from confrere_common.section import section


class Swinunetr(Method):
    """The recipe with which MONAI's Swin UNETR was pre-trained on CT; any encoder may take it.

    Two views of an image are turned about the Z axis (by 0 or 180 degrees alone where Y and X
    differ), lose blocks to noise, and are painted again, told apart by their turns and found among
    the other images of the batch. That last task couples images. Deviations: what is lost are
    blocks of a grid, as many in each image, in place of boxes of random size; the painting is
    compared with the turned view, all of it, from the coarsest map alone as in MONAI's code, by
    the decoder of segmentation. Turns teach nothing where images have no upright (histology):
    set turning to 0 there.
    """

    per_image = False

    @section
    class Config:
        """Defaults are those of MONAI's code."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
        """Part of the blocks that is lost. MONAI: 0.3."""

        block: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a block. Left out, it is the power of two nearest to a seventh
        of the longest side. MONAI: boxes of a twentieth to a quarter of each side."""

        painting: Annotated[float, Field(gt=0)] = 1.0
        """Weight of the painting's mean absolute error. MONAI: 1."""

        turning: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the turns' cross-entropy; 0 where images have no upright. MONAI: 1."""

        contrast: Annotated[float, Field(gt=0)] = 1.0
        """Weight of finding twins. MONAI: 1."""

        temperature: Annotated[float, Field(gt=0)] = 0.5
        """Similarities are divided by it. MONAI: 0.5."""

        out: Annotated[int, Field(ge=2)] = 512
        """Features by which twins are found. MONAI: 512."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.block = block_side(config.block, encoder.size, "swinunetr")
        square = encoder.size[-1] == encoder.size[-2]
        self.turns = (0, 1, 2, 3) if square else (0, 2)
        self.decoder = Bottleneck(encoder, compression=1.0, width=config.width)
        self.projector = nn.Linear(encoder.width, config.out)
        if config.turning:
            self.tell = nn.Linear(encoder.width, len(self.turns))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return two turned views, the same with blocks lost to noise, and which turns they took.

        Turns are numbered from 0, (B,).
        """
        drawn = [self._turned(augment(images_BCZYX, generator), generator) for _ in range(2)]
        lost = [self._lost(view_BCZYX, generator) for view_BCZYX, _ in drawn]
        (one_BCZYX, turn_one_B), (two_BCZYX, turn_two_B) = drawn
        return one_BCZYX, two_BCZYX, *lost, turn_one_B, turn_two_B

    def losses(self, *views: Tensor) -> Tensor:
        """Return the weighted sum of three tasks, mean over both views; images are coupled."""
        whole_VCZYX, lost_VCZYX = torch.cat(views[:2]), torch.cat(views[2:4])
        coarsest = self.encoder.maps(lost_VCZYX)[-1]
        features_VF = self.encoder.pool(coarsest)
        painted_VCZYX = self.decoder(coarsest)
        missed_V = (painted_VCZYX - whole_VCZYX.to(painted_VCZYX.dtype)).abs().flatten(1).mean(1)
        (projected_VF,) = in_one_pass(self.projector, features_VF)
        weigh = self.config
        losses_V = weigh.painting * missed_V
        losses_V = losses_V + weigh.contrast * find_twins(projected_VF, weigh.temperature)
        if weigh.turning:
            (told_VT,) = in_one_pass(self.tell, features_VF)
            untold_V = cross_entropy(told_VT, torch.cat(views[4:]), reduction="none")
            losses_V = losses_V + weigh.turning * untold_V
        both_B: Tensor = losses_V.view(2, -1).mean(0)
        return both_B

    def _turned(self, images_BCZYX: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, most = len(images_BCZYX), len(self.turns)
        drawn_B = torch.randint(most, (count,), generator=generator, device=generator.device)
        drawn_B = drawn_B.to(images_BCZYX.device)
        every = [torch.rot90(images_BCZYX, turn, (-2, -1)) for turn in self.turns]
        one_each = torch.arange(count, device=drawn_B.device)
        return torch.stack(every)[drawn_B, one_each], drawn_B

    def _lost(self, images_BCZYX: Tensor, generator: torch.Generator) -> Tensor:
        hidden_B1ZYX = hidden_blocks(images_BCZYX, self.block, self.config.ratio, generator)
        noise = torch.randn(images_BCZYX.shape, generator=generator, device=generator.device)
        return torch.where(hidden_B1ZYX, noise.to(images_BCZYX), images_BCZYX)


def find_twins(features_VF: Tensor, temperature: float) -> Tensor:
    """Return how badly each view finds its twin among all other views, (V,): NT-Xent."""
    count = len(features_VF) // 2
    with torch.autocast(features_VF.device.type, enabled=False):
        unit_VF = normalize(features_VF)
        alike_VV = unit_VF @ unit_VF.T / temperature
    itself_VV = torch.eye(2 * count, dtype=torch.bool, device=alike_VV.device)
    twins_V = torch.arange(2 * count, device=alike_VV.device).roll(count)
    return cross_entropy(alike_VV.masked_fill(itself_VV, -torch.inf), twins_V, reduction="none")
