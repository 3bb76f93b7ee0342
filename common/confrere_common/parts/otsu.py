"""Otsu's threshold: what of an image is an object, by its intensities alone.

Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076: the threshold that sets the means of
what lies below and above it furthest apart. Each image has its own; nothing is learned or shared.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), P voxels in a row, K bins.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Polarity: TypeAlias = Literal["border", "smaller", "bright", "dark"]

_LUMINANCE = (0.299, 0.587, 0.114)


def grey(images_BCZYX: Tensor, channel: int | None = None) -> Tensor:
    """Return one channel (B, 1, [Z] Y X): the one asked for, else luminance or the mean."""
    if channel is not None:
        return images_BCZYX[:, channel : channel + 1]
    if images_BCZYX.shape[1] != len(_LUMINANCE):
        return images_BCZYX.mean(1, keepdim=True)
    weights = images_BCZYX.new_tensor(_LUMINANCE).view(3, *[1] * (images_BCZYX.dim() - 2))
    return (images_BCZYX * weights).sum(1, keepdim=True)


def thresholds(grey_B1ZYX: Tensor, bins: int = 256) -> Tensor:
    """Return each image's threshold (B,); what reaches it is bright. Constant images have none.

    For a constant image it lies above all voxels, so that nothing is bright.
    """
    values_BP = grey_B1ZYX.flatten(1)
    low_B1, high_B1 = values_BP.amin(1, keepdim=True), values_BP.amax(1, keepdim=True)
    step_B1 = (high_B1 - low_B1) / bins
    places_BP = ((values_BP - low_B1) / step_B1.clamp(min=1e-12)).long().clamp(max=bins - 1)
    counts_BK = values_BP.new_zeros(len(values_BP), bins)
    counts_BK.scatter_add_(1, places_BP, torch.ones_like(values_BP))
    bright_from_B1 = _between(counts_BK).argmax(1, keepdim=True) + 1
    found_B1 = low_B1 + bright_from_B1 * step_B1
    return torch.where(step_B1 > 0, found_B1, high_B1 + 1)[:, 0]


def bright(grey_B1ZYX: Tensor) -> Tensor:
    """Return which voxels reach their image's threshold (bool, same shape)."""
    found_B = thresholds(grey_B1ZYX)
    return grey_B1ZYX >= found_B.view(-1, *[1] * (grey_B1ZYX.dim() - 1))


def objects(grey_B1ZYX: Tensor, polarity: Polarity = "border") -> Tensor:
    """Return Otsu's object (bool, same shape); where both classes tie, it is the bright one.

    Otsu does not know which class is the object: it is the one that fills less of the image's
    border, the smaller one, or always the bright or the dark one.
    """
    bright_B1ZYX = bright(grey_B1ZYX)
    if polarity == "bright":
        return bright_B1ZYX
    if polarity == "dark":
        return ~bright_B1ZYX
    of_bright = border_share if polarity == "border" else share
    swap_B = of_bright(bright_B1ZYX) > 0.5
    return bright_B1ZYX ^ swap_B.view(-1, *[1] * (bright_B1ZYX.dim() - 1))


def share(mask_B1ZYX: Tensor) -> Tensor:
    """Return which part of each image is in its mask, (B,)."""
    return mask_B1ZYX.flatten(1).float().mean(1)


def border_share(mask_B1ZYX: Tensor) -> Tensor:
    """Return which part of each image's outermost voxels is in its mask, (B,)."""
    outer = torch.zeros(mask_B1ZYX.shape[2:], dtype=torch.bool, device=mask_B1ZYX.device)
    for axis in range(outer.dim()):
        outer.index_fill_(axis, torch.tensor([0, outer.shape[axis] - 1], device=outer.device), 1)
    return mask_B1ZYX[:, :, outer].flatten(1).float().mean(1)


def _between(counts_BK: Tensor) -> Tensor:
    """Return the variance between the classes for a cut after each bin but the last."""
    places_K = torch.arange(counts_BK.shape[1], dtype=counts_BK.dtype, device=counts_BK.device)
    parts_BK = counts_BK / counts_BK.sum(1, keepdim=True)
    below_BK, moment_BK = parts_BK.cumsum(1), (parts_BK * places_K).cumsum(1)
    apart_BK = (moment_BK[:, -1:] * below_BK - moment_BK).square()
    between_BK = apart_BK / (below_BK * (1 - below_BK)).clamp(min=1e-12)
    return between_BK[:, :-1]
