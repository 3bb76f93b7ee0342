"""Residual network with group normalisation: local patterns first, then ever wider ones.

Source: https://arxiv.org/abs/1512.03385 with a bottleneck's stride in its 3x3 convolution, and
https://arxiv.org/abs/1803.08494 in place of batch normalisation, whose statistics would tie the
images of a batch together and differ between sites. Nothing works in place: the hooks that measure
each image's gradient for differential privacy (Opacus) fail on that, and MONAI's ResNet does it.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.parts.tensor_train import TensorTrain, convolution
from confrere_common.section import section

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
LARGE_FROM = 64
"""Voxels along the shortest side from which 'auto' shrinks images at once."""


class Resnet(Encoder):
    """It is the frugal choice: sound on few images, on any size of image, and on a CPU."""

    @section
    class Config:
        """Defaults are those of the ResNet-18 of the paper."""

        depth: Literal[18, 34, 50] = 18
        """Layers that are counted in its name."""

        width: Annotated[int, Field(ge=1)] = 64
        """Channels of the first stage; features are 8 times as many, with depth 50 32 times."""

        groups: Annotated[int, Field(ge=1)] = 8
        """Groups of channels that are normalised together; must divide width."""

        stem: Literal["auto", "small", "large"] = "auto"
        """How an image enters: 'large' shrinks it 4 times (7x7 convolution and pooling), 'small'
        keeps its size; 'auto' is large if the shortest side has 64 voxels or more."""

        tensor_train: TensorTrain | None = None
        """Whether convolutions of 1 and 3 voxels are held as chains of small cores, as in
        ``{rank: 8}``: fewer bytes a round. They are joined by federation.rule tensor_train alone:
        the mean of the sites' cores is another layer."""

        @field_validator("groups")
        @classmethod
        def _divides_width(cls, groups: int, others: ValidationInfo) -> int:
            width = others.data.get("width", groups)
            if width % groups:
                near = gcd(width, groups)
                raise ValueError(f"must divide width, which is {width}; {near} would")
            return groups

    def __init__(self, config: Config, *, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        large = config.stem == "large" or (config.stem == "auto" and min(size) >= LARGE_FROM)
        expansion = 4 if config.depth == 50 else 1
        self.map_channels = tuple(config.width * expansion * 2**stage for stage in range(4))
        self.map_strides = (4, 8, 16, 32) if large else (1, 2, 4, 8)
        self.width = self.map_channels[-1]

        make = _Layers(len(size), config.groups, config.tensor_train)
        self.stem = make.stem(channels, config.width, large=large)
        ins = pairwise((config.width, *self.map_channels))
        rows = zip(ins, BLOCKS[config.depth], (1, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(
            _stage(make, sizes, count, expansion, stride) for sizes, count, stride in rows
        )
        self.apply(_initialise)

    def maps(self, images_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return what each of the four stages sees, finest first."""
        map_BCZYX: Tensor = self.stem(images_BCZYX)
        seen = []
        for stage in self.stages:
            map_BCZYX = stage(map_BCZYX)
            seen.append(map_BCZYX)
        return tuple(seen)

    def pool(self, map_BCZYX: Tensor) -> Tensor:
        """Return the mean over all places."""
        return map_BCZYX.flatten(2).mean(2)


class _Block(nn.Module):
    """Convolutions whose result is added to what came in."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, map_BCZYX: Tensor) -> Tensor:
        """Return a map of the block's channels and stride."""
        added: Tensor = self.branch(map_BCZYX) + self.shortcut(map_BCZYX)
        return added.relu()


@dataclass(frozen=True)
class _Layers:
    """The layers of a network over 2-D or 3-D images with one number of groups."""

    dims: int
    groups: int
    tensor_train: TensorTrain | None

    def convolve(self, ins: int, outs: int, kernel: int, stride: int = 1) -> Sequence[nn.Module]:
        """Return a convolution that keeps the size but for *stride*, and its normalisation."""
        option = self.tensor_train if kernel <= 3 else None
        made = convolution(self.dims, (ins, outs), kernel, stride, option)
        return made, nn.GroupNorm(self.groups, outs)

    def stem(self, ins: int, outs: int, *, large: bool) -> nn.Module:
        """Return the entrance of the network."""
        if not large:
            return nn.Sequential(*self.convolve(ins, outs, 3), nn.ReLU())
        pool = nn.MaxPool3d if self.dims == 3 else nn.MaxPool2d
        return nn.Sequential(*self.convolve(ins, outs, 7, 2), nn.ReLU(), pool(3, 2, padding=1))

    def plain(self, ins: int, outs: int, stride: int) -> nn.Module:
        """Return the branch of a block of depth 18 or 34."""
        first, second = self.convolve(ins, outs, 3, stride), self.convolve(outs, outs, 3)
        return nn.Sequential(*first, nn.ReLU(), *second)

    def bottleneck(self, ins: int, outs: int, stride: int) -> nn.Module:
        """Return the branch of a block of depth 50: a quarter of the channels between."""
        inner = outs // 4
        narrow, within = self.convolve(ins, inner, 1), self.convolve(inner, inner, 3, stride)
        return nn.Sequential(*narrow, nn.ReLU(), *within, nn.ReLU(), *self.convolve(inner, outs, 1))

    def shortcut(self, ins: int, outs: int, stride: int) -> nn.Module:
        """Return the identity, or where shapes change a projection."""
        if ins == outs and stride == 1:
            return nn.Identity()
        return nn.Sequential(*self.convolve(ins, outs, 1, stride))


def _stage(
    make: _Layers, sizes: tuple[int, int], count: int, expansion: int, stride: int
) -> nn.Module:
    """Return *count* blocks, of which the first changes channels and size."""
    ins, outs = sizes
    branch = make.plain if expansion == 1 else make.bottleneck
    shapes = [(ins, outs, stride)] + [(outs, outs, 1)] * (count - 1)
    return nn.Sequential(*(_Block(branch(*shape), make.shortcut(*shape)) for shape in shapes))


def _initialise(module: nn.Module) -> None:
    """Draw He-normal weights.

    The last normalisation of a branch does not start at 0 (https://arxiv.org/abs/1706.02677): that
    would leave the convolutions before it without gradient at the first step, which matters
    where gradients are clipped as one, and make the untrained network, a floor, shallower.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
