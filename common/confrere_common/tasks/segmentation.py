"""Segmentation: a U-Net's way up from the encoder's maps, one class a voxel, in 2-D and 3-D.

The loss is cross-entropy plus one minus the soft Dice of each class, as in nnU-Net
(https://doi.org/10.1038/s41592-020-01008-z); a class that an image lacks adds no Dice, so that
empty masks teach by their cross-entropy alone.

A structure that no mask of a site holds may be absent there, or not annotated: masks do not tell.
Where it is left out (``finetune.missing``), it has no part in the softmax, and so none in any Dice.
Background stays: it is what none of the structures is that the site outlines, and its logit is
weighed against theirs alone. So the site says nothing of background against what it left out; that
is learned where both are marked.

Shapes: B images, C channels, K classes with background first, S structures: classes but background,
[Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from confrere_common.augment.alike import moved_alike
from confrere_common.encoder import Encoder
from confrere_common.method import Augment
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.lacking import present, restricted
from confrere_common.parts.overlap import soft_dice
from confrere_common.section import section
from confrere_common.task import FineTask


class Segmentation(FineTask):
    """finetune.classes names what a mask's 1, 2, ... are; 0 is background."""

    marks = "mask"
    wants = ("mask", "prior")

    @section
    class Config:
        """Defaults are small enough for a CPU."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size."""

        dice: Annotated[float, Field(ge=0)] = 1.0
        """Weight of one minus the soft Dice, beside the cross-entropy of voxels."""

    def __init__(self, config: Config, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__(encoder, classes)
        self.config = config
        self.head = Decoder(encoder, len(classes) + 1, config.width)

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return augmented images, their masks where their voxels went, and which classes stay.

        Masks are (B, [Z] Y X); background always stays in the loss.
        """
        masks_BZYX, prior_BS = known
        apart_BKZYX = one_hot(masks_BZYX.long(), len(self.classes) + 1).movedim(-1, 1)
        views_BCZYX, moved_BKZYX, _ = moved_alike(images_BCZYX, apart_BKZYX, augment, generator)
        there_BS = present(prior_BS)
        stays_BK = torch.cat([torch.ones_like(there_BS[:, :1]), there_BS], dim=1)
        return views_BCZYX, moved_BKZYX.argmax(1), stays_BK

    def losses(self, *views: Tensor) -> Tensor:
        """Return cross-entropy over voxels plus weighted one minus Dice: 0 at best."""
        images_BCZYX, masks_BZYX, stays_BK = views
        logits_BKZYX = self.head(self.encoder.maps(images_BCZYX))
        logits_BKZYX = logits_BKZYX.to(torch.promote_types(logits_BKZYX.dtype, torch.float32))
        logits_BKZYX = restricted(logits_BKZYX, stays_BK)
        wrong_B = cross_entropy(logits_BKZYX, masks_BZYX, reduction="none").flatten(1).mean(1)
        kinds_K = torch.arange(1, logits_BKZYX.shape[1], device=masks_BZYX.device)
        shape = (1, -1, *[1] * (masks_BZYX.dim() - 1))
        truth_BKZYX = (masks_BZYX[:, None] == kinds_K.view(shape)).to(logits_BKZYX.dtype)
        apart_BK = soft_dice(logits_BKZYX.softmax(1)[:, 1:], truth_BKZYX)
        there_BK = (truth_BKZYX.flatten(2).sum(2) > 0).to(apart_BK.dtype)
        apart_B = (apart_BK * there_BK).sum(1) / there_BK.sum(1).clamp(min=1)
        return wrong_B + self.config.dice * apart_B

    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return the probability of each class in each voxel, (B, K, [Z] Y X)."""
        logits_BKZYX: Tensor = self.head(self.encoder.maps(images_BCZYX))
        return logits_BKZYX.float().softmax(1)
