"""Made-up facts of images, for probes of a loss: what ties images by what is known of them shows.

They are random, but for this: of the first image all is known, of the last of several nothing; the
second is of the first one's class, and the third of another.

Shapes: B images, [Z] Y X voxels (Z only in 3-D), M boxes, D axes in the order X Y [Z], K classes.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from confrere_common.parts.labels import UNKNOWN

MADE: Mapping[str, Callable[[int, tuple[int, ...], int, torch.Generator], Tensor]]
"""What is known -> how it is made of: images, their size, classes, chance. As ``KNOWN`` has it."""


def _labels(count: int, _: tuple[int, ...], classes: int, chance: torch.Generator) -> Tensor:
    labels_B = torch.randint(classes, (count,), generator=chance)
    labels_B[1:2] = labels_B[0]
    labels_B[2:3] = (labels_B[0] + 1) % classes
    labels_B[_last(count)] = UNKNOWN
    return labels_B


def _masks(count: int, size: tuple[int, ...], classes: int, chance: torch.Generator) -> Tensor:
    share_B = torch.rand(count, *(1 for _ in size), generator=chance)
    there_BZYX = torch.rand(count, *size, generator=chance) < (1 + share_B) / 3
    kinds_BZYX = torch.randint(1, classes + 1, (count, *size), generator=chance)
    masks_BZYX = kinds_BZYX * there_BZYX
    masks_BZYX[_last(count)] = 0
    return masks_BZYX


def _boxes(count: int, size: tuple[int, ...], classes: int, chance: torch.Generator) -> Tensor:
    sides_D = torch.tensor(size[::-1], dtype=torch.float32)
    low, high = torch.rand(2, count, 2, len(size), generator=chance)
    kinds = torch.randint(classes, (count, 2, 1), generator=chance).float()
    # About the middle, where a coarse map has a place.
    boxes_BM = torch.cat([sides_D * low / 4, sides_D * (high + 1) / 2, kinds], dim=2)
    boxes_BM[torch.rand(count, generator=chance) < 0.5, 1] = torch.nan
    boxes_BM[_last(count)] = torch.nan
    return boxes_BM


def _findings(count: int, _: tuple[int, ...], classes: int, chance: torch.Generator) -> Tensor:
    findings_BK = torch.randint(2, (count, classes), generator=chance).float()
    unknown_BK = torch.rand(count, classes, generator=chance) < 0.25
    unknown_BK[0] = False
    unknown_BK[_last(count)] = True
    return findings_BK.masked_fill(unknown_BK, torch.nan)


def _priors(count: int, _: tuple[int, ...], classes: int, chance: torch.Generator) -> Tensor:
    return torch.randn(count, classes, generator=chance).log_softmax(1)


def _last(count: int) -> slice:
    return slice(max(1, count - 1), count)


MADE = {
    "label": _labels,
    "mask": _masks,
    "boxes": _boxes,
    "findings": _findings,
    "prior": _priors,
}
