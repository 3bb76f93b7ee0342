"""Overlap of a soft mask with a true one, for each image alone.

Shapes: B images, K classes, [Z] Y X voxels (Z only in 3-D).
"""

from torch import Tensor


def soft_dice(guesses_BKZYX: Tensor, masks_BKZYX: Tensor, smooth: float = 1.0) -> Tensor:
    """Return one minus the soft Dice of each image and class, (B, K): 0 if equal, at most 1.

    The Dice of https://arxiv.org/abs/1606.04797 without its squares; *smooth* voxels are added to
    both areas, so that two empty masks agree.
    """
    guesses_BKP, masks_BKP = guesses_BKZYX.flatten(2), masks_BKZYX.flatten(2)
    both_BK = (guesses_BKP * masks_BKP).sum(2)
    areas_BK = guesses_BKP.sum(2) + masks_BKP.sum(2)
    return 1 - (2 * both_BK + smooth) / (areas_BK + smooth)
