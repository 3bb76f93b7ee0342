"""A U-Net's way up: any encoder's maps become one value a voxel and class, at the input's size.

Where maps lie at several strides they are its skip connections (U-Net,
https://arxiv.org/abs/1505.04597); where they are depths of a transformer brought to several strides
(``Vit.maps``), or all of one stride, it is a UNETR (https://arxiv.org/abs/2103.10504). Each image
is normalised alone, in groups of channels; nothing works in place, so that gradients of single
images can be measured.

Shapes: B images, M channels of a map, K classes, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from confrere_common.encoder import Encoder

GROUPS = 8
WIDEST = 8
"""How many times wider than the finest level a level may be."""


class Decoder(nn.Module):
    """Goes from the coarsest map to the input's size, halving strides and channels on the way.

    *width* is the number of channels at the input's size; a level of twice the stride has twice
    as many, at most eight times.
    """

    def __init__(self, encoder: Encoder, classes: int, width: int = 16) -> None:
        super().__init__()
        make = _Layers(len(encoder.size), width)
        strides = encoder.map_strides
        finer = _halvings(strides[0])
        self.sizes = [_size_at(encoder.size, stride) for stride in (*strides[-2::-1], *finer)]
        channels = [make.width_at(stride) for stride in (*strides[::-1], *finer)]
        skips = zip(encoder.map_channels, strides, strict=True)
        self.skips = nn.ModuleList(make.one(ins, make.width_at(at)) for ins, at in skips)
        self.levels = nn.ModuleList(
            make.level(ins + (outs if level < len(strides) - 1 else 0), outs)
            for level, (ins, outs) in enumerate(pairwise(channels))
        )
        self.out = make.one(channels[-1], classes)

    def forward(self, maps_BMZYX: Sequence[Tensor]) -> Tensor:
        """Return logits of shape (B, K, [Z] Y X) from the encoder's maps, finest first."""
        pairs = zip(self.skips, maps_BMZYX, strict=True)
        # A transformer's maps have their channels last; a GroupNorm behind could not be mapped.
        seen_BMZYX, *rest = [skip(one.contiguous()) for skip, one in pairs][::-1]
        for level, (size, refine) in enumerate(zip(self.sizes, self.levels, strict=True)):
            seen_BMZYX = enlarged(seen_BMZYX, size)
            if level < len(rest):
                seen_BMZYX = torch.cat([rest[level], seen_BMZYX], dim=1)
            seen_BMZYX = refine(seen_BMZYX)
        logits_BKZYX: Tensor = self.out(seen_BMZYX)
        return logits_BKZYX


class Sides(nn.Module):
    """The least that makes logits of maps: a linear layer on each, enlarged and summed.

    It knows no neighbours, so all that is to be learned must be learned by the encoder.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        make = _Layers(len(encoder.size), classes)
        self.size = encoder.size
        self.sides = nn.ModuleList(make.one(ins, classes) for ins in encoder.map_channels)

    def forward(self, maps_BMZYX: Sequence[Tensor]) -> Tensor:
        """Return logits of shape (B, K, [Z] Y X) from the encoder's maps, finest first."""
        pairs = zip(self.sides, maps_BMZYX, strict=True)
        return torch.stack([enlarged(side(one), self.size) for side, one in pairs]).sum(0)


def enlarged(map_BMZYX: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the map at *size*, linearly interpolated."""
    if tuple(map_BMZYX.shape[2:]) == size:
        return map_BMZYX
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return interpolate(map_BMZYX, size, mode=mode)


@dataclass(frozen=True)
class _Layers:
    """The layers of a decoder over 2-D or 3-D images."""

    dims: int
    width: int

    def width_at(self, stride: int) -> int:
        """Return the channels of the level at *stride*."""
        return self.width * min(1 << (stride - 1).bit_length(), WIDEST)

    def one(self, ins: int, outs: int) -> nn.Module:
        """Return a linear layer over channels."""
        return (nn.Conv3d if self.dims == 3 else nn.Conv2d)(ins, outs, 1)

    def level(self, ins: int, outs: int) -> nn.Module:
        """Return two convolutions, normalised."""
        return nn.Sequential(*self._convolve(ins, outs), *self._convolve(outs, outs))

    def _convolve(self, ins: int, outs: int) -> tuple[nn.Module, ...]:
        convolution = nn.Conv3d if self.dims == 3 else nn.Conv2d
        groups = gcd(GROUPS, max(1, outs // 2))
        made = convolution(ins, outs, 3, padding=1, bias=False)
        return made, nn.GroupNorm(groups, outs), nn.ReLU()


def _halvings(stride: int) -> list[int]:
    """Return the strides below *stride*, each half of the last, down to 1."""
    found = []
    while stride > 1:
        stride = -(-stride // 2)
        found.append(stride)
    return found


def _size_at(size: tuple[int, ...], stride: int) -> tuple[int, ...]:
    return tuple(-(-side // stride) for side in size)
