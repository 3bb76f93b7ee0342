"""SimMIM: any encoder repaints blocks that were painted over. https://arxiv.org/abs/2111.09886.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N blocks, M channels of a map.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.method import Augment, Method
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.heads import Learned
from confrere_common.parts.masking import (
    hidden_blocks,
    over_hidden,
    unpatchify,
    usual_block,
)
from confrere_common.section import section


class Simmim(Method):
    """It trains convolutional encoders and transformers, in 2-D and 3-D, and cannot collapse.

    Two deviations from the paper. Blocks are painted over with one learned value a channel at the
    input, in place of a learned token after the patch embedding, which only transformers have.
    The head is the paper's single layer only where the coarsest map has a cell for each block;
    for a coarser one (a ResNet's has stride 32, 2 x 2 cells at 64 px) it adds finer maps.
    """

    per_image = True

    @section
    class Config:
        """Defaults are the paper's."""

        LATER: ClassVar[tuple[str, ...]] = ("decoder", "width")

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
        """Part of the blocks that is hidden. Paper: 0.6 for blocks of 32 at 192 to 224 px."""

        block: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a block. Left out, it is the power of two nearest to a seventh
        of the longest side: 32 at 224 px as in the paper, 16 at 96, 8 at 64, 4 at 28."""

        head: Annotated[int, Field(ge=1)] = 128
        """Channels in which the head joins maps."""

        decoder: Literal["light", "unet"] = "light"
        """What repaints: the head, which is thrown away, or a U-Net's way up, from which
        segmentation may start (UNETR-like networks: https://arxiv.org/abs/2204.00631)."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the U-Net's way up at the input's size."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.block = _block(config, encoder.size)
        self.paint = Learned(encoder.channels, *(1,) * len(encoder.size))
        if config.decoder == "unet":
            self.decoder = Decoder(encoder, encoder.channels, config.width)
        else:
            self.head = _Head(config.head, encoder, self.block)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and which of their voxels are hidden, (B, 1, [Z,] Y, X)."""
        augmented_BCZYX = augment(images_BCZYX, generator)
        ratio = self.config.ratio
        return augmented_BCZYX, hidden_blocks(augmented_BCZYX, self.block, ratio, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean absolute error over the hidden voxels: 0 if repainted exactly."""
        images_BCZYX, hidden_B1ZYX = views
        guesses_BCZYX = self.repaint(images_BCZYX, hidden_B1ZYX)
        return over_hidden((guesses_BCZYX.float() - images_BCZYX.float()).abs(), hidden_B1ZYX)

    def repaint(self, images_BCZYX: Tensor, hidden_B1ZYX: Tensor) -> Tensor:
        """Return a guess of all images from what is not hidden of them."""
        painted_BCZYX = torch.where(hidden_B1ZYX, self.paint(images_BCZYX), images_BCZYX)
        painter = self.decoder if self.config.decoder == "unet" else self.head
        guesses_BCZYX: Tensor = painter(self.encoder.maps(painted_BCZYX))
        return guesses_BCZYX


class _Head(nn.Module):
    """Joins maps, from the coarsest to the first with a cell a block, and lays out their voxels."""

    def __init__(self, width: int, encoder: Encoder, block: int) -> None:
        super().__init__()
        convolution = nn.Conv3d if len(encoder.size) == 3 else nn.Conv2d
        self.size = encoder.size
        self.first = _first_map(encoder.map_strides, block)
        self.stride = (encoder.map_strides[self.first],) * len(encoder.size)
        voxels = torch.Size(self.stride).numel() * encoder.channels
        used = encoder.map_channels[self.first :]
        single = len(used) == 1
        self.joins = nn.ModuleList(
            () if single else (convolution(channels, width, 1) for channels in used)
        )
        self.lay_out = convolution(used[0] if single else width, voxels, 1)

    def forward(self, maps_BMZYX: tuple[Tensor, ...]) -> Tensor:
        """Return images of the encoder's size."""
        cells_BPZYX = self.lay_out(self._joined(maps_BMZYX[self.first :]))
        patches_BNP = cells_BPZYX.flatten(2).transpose(1, 2)
        images_BCZYX = unpatchify(patches_BNP, tuple(cells_BPZYX.shape[2:]), self.stride)
        for axis, side in enumerate(self.size, start=2):
            images_BCZYX = images_BCZYX.narrow(axis, 0, side)
        return images_BCZYX

    def _joined(self, used_BMZYX: tuple[Tensor, ...]) -> Tensor:
        if not self.joins:
            return used_BMZYX[0]
        mode = "trilinear" if len(self.size) == 3 else "bilinear"
        finest = used_BMZYX[0].shape[2:]
        narrowed = [join(one) for join, one in zip(self.joins, used_BMZYX, strict=True)]
        alike = [narrowed[0], *(interpolate(one, finest, mode=mode) for one in narrowed[1:])]
        return gelu(torch.stack(alike).sum(0))


def _first_map(strides: tuple[int, ...], block: int) -> int:
    """Return the index of the coarsest map whose cells fit in a block; 0 if none does."""
    return max((index for index, stride in enumerate(strides) if stride <= block), default=0)


def _block(config: Simmim.Config, size: tuple[int, ...]) -> int:
    """Return the side of a block; ConfigError if one block covers the whole image."""
    block = config.block or usual_block(size)
    if block >= max(size):
        sides = " x ".join(map(str, size))
        fault = (
            f"a block of {block} voxels covers images of {sides} whole, so nothing would be left "
            f"to see. Set method.block below {max(size)}."
        )
        raise ConfigError([fault], "method 'simmim'")
    return block
