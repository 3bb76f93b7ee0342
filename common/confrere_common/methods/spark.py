"""SparK: a CNN that skips hidden blocks; a decoder paints them. https://arxiv.org/abs/2301.03580.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N blocks, M channels of a map, G
groups of channels.
"""

from collections.abc import Mapping
from typing import Annotated, TypeAlias, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from confrere_common.encoder import Encoder
from confrere_common.encoders.resnet import Resnet
from confrere_common.errors import ConfigError
from confrere_common.method import Augment, Method
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.heads import Learned
from confrere_common.parts.hiding import block_side
from confrere_common.parts.masking import (
    hidden_blocks,
    over_hidden,
    paint_blocks,
    usual_block,
)
from confrere_common.section import section

Shown: TypeAlias = Mapping[tuple[int, ...], Tensor]
"""Size of a map -> which of its cells are shown, (B, 1, [Z] Y X)."""


class Spark(Method):
    """Masked images for CNNs: what is hidden stays out, so masks do not blur as layers go on.

    Sparse convolutions are emulated: after every layer the hidden cells are set to zero again, and
    normalisation takes its statistics from the shown ones. That costs as much as looking at the
    whole image. Before the decoder, a U-Net's, hidden cells are filled with a learned value for
    each scale. Statistics are those of each image's groups of channels, where the paper's are a
    batch's. Cells of a map coarser than a block are shown if any part of them is.
    """

    per_image = True
    encoder_kinds = ("resnet",)

    @section
    class Config:
        """Defaults are the paper's, but for the decoder."""

        ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
        """Part of the blocks that is hidden. Paper: 0.6."""

        block: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a block. Left out, it is the stride of the encoder's coarsest
        map, 32 in the paper, but on images of fewer than four such blocks a seventh of a side."""

        norm_target: bool = True
        """Whether each block of the target is normalised to mean 0 and variance 1. Paper: yes."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.block = _block(config, encoder)
        filled = zip(encoder.map_channels, encoder.map_strides, strict=True)
        ones = (1,) * len(encoder.size)
        self.fillings = nn.ModuleList(
            Learned(channels, *ones) if stride <= self.block else nn.Identity()
            for channels, stride in filled
        )
        self.decoder = Decoder(encoder, encoder.channels, config.width)

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images and which of their voxels are hidden, (B, 1, [Z] Y X)."""
        augmented_BCZYX = augment(images_BCZYX, generator)
        ratio = self.config.ratio
        return augmented_BCZYX, hidden_blocks(augmented_BCZYX, self.block, ratio, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the mean squared error over the hidden voxels: 0 if they are painted exactly."""
        images_BCZYX, hidden_B1ZYX = views
        guesses_BCZYX = self.paint(images_BCZYX, hidden_B1ZYX)
        kind = torch.promote_types(guesses_BCZYX.dtype, torch.float32)
        targets_BCZYX = images_BCZYX.to(kind)
        if self.config.norm_target:
            targets_BCZYX = self._normalised(targets_BCZYX)
        return over_hidden((guesses_BCZYX.to(kind) - targets_BCZYX).square(), hidden_B1ZYX)

    def paint(self, images_BCZYX: Tensor, hidden_B1ZYX: Tensor) -> Tensor:
        """Return a guess of all (normalised) blocks from what is not hidden."""
        maps_BMZYX, shown = self.sparse_maps(images_BCZYX, hidden_B1ZYX)
        filled = [
            torch.where(shown[tuple(one.shape[2:])], one, filling(one))
            for one, filling in zip(maps_BMZYX, self.fillings, strict=True)
        ]
        guesses_BCZYX: Tensor = self.decoder(filled)
        return guesses_BCZYX

    def sparse_maps(self, images_BCZYX: Tensor, hidden_B1ZYX: Tensor) -> tuple[list[Tensor], Shown]:
        """Return the encoder's maps, zero where hidden, and which cells of each are shown."""
        resnet = cast(Resnet, self.encoder)
        shown = _shown(~hidden_B1ZYX, resnet.map_strides[-1])
        seen_BMZYX = _sparse(resnet.stem, torch.where(hidden_B1ZYX, 0, images_BCZYX), shown)
        maps = []
        for stage in resnet.stages:
            seen_BMZYX = _sparse(stage, seen_BMZYX, shown)
            maps.append(seen_BMZYX)
        return maps, shown

    def _normalised(self, images_BCZYX: Tensor) -> Tensor:
        """Return images with mean 0 and variance 1 in every block, over all channels."""
        mean_B1ZYX = self._block_means(images_BCZYX)
        apart_BCZYX = images_BCZYX - mean_B1ZYX
        return apart_BCZYX / (self._block_means(apart_BCZYX.square()) + 1e-6).sqrt()

    def _block_means(self, images_BCZYX: Tensor) -> Tensor:
        pool = functional.avg_pool3d if len(self.encoder.size) == 3 else functional.avg_pool2d
        flat_B1ZYX = images_BCZYX.mean(1, keepdim=True)
        means_B1ZYX = pool(flat_B1ZYX, self.block, ceil_mode=True, count_include_pad=False)
        return paint_blocks(means_B1ZYX.flatten(1), self.encoder.size, self.block)


def _shown(shown_B1ZYX: Tensor, coarsest: int) -> Shown:
    """Return the mask at every stride; a cell is shown if any of its voxels is."""
    pool = functional.max_pool3d if shown_B1ZYX.dim() == 5 else functional.max_pool2d
    found, stride = {}, 1
    mask_B1ZYX = shown_B1ZYX.to(torch.float32)
    while stride <= coarsest:
        found[tuple(mask_B1ZYX.shape[2:])] = mask_B1ZYX > 0
        mask_B1ZYX = pool(mask_B1ZYX, 2, ceil_mode=True)
        stride *= 2
    return found


def _sparse(layer: nn.Module, map_BMZYX: Tensor, shown: Shown) -> Tensor:
    """Apply *layer* as if it were sparse: hidden cells stay zero and enter no statistic."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            map_BMZYX = _sparse(part, map_BMZYX, shown)
        return map_BMZYX
    if isinstance(layer, nn.GroupNorm):
        return _sparse_norm(layer, map_BMZYX, shown[tuple(map_BMZYX.shape[2:])])
    if hasattr(layer, "branch"):  # a residual block
        branch, shortcut = cast(nn.Module, layer.branch), cast(nn.Module, layer.shortcut)
        added = _sparse(branch, map_BMZYX, shown) + _sparse(shortcut, map_BMZYX, shown)
        return added.relu()
    found_BMZYX: Tensor = layer(map_BMZYX)
    return torch.where(shown[tuple(found_BMZYX.shape[2:])], found_BMZYX, 0)


def _sparse_norm(norm: nn.GroupNorm, map_BMZYX: Tensor, shown_B1ZYX: Tensor) -> Tensor:
    """Normalise each group of channels over the shown cells; hidden ones are and stay zero."""
    kind = torch.promote_types(map_BMZYX.dtype, torch.float32)
    groups_BGP = map_BMZYX.to(kind).reshape(len(map_BMZYX), norm.num_groups, -1)
    per_group = norm.num_channels // norm.num_groups
    shown_B1P = shown_B1ZYX.flatten(2).repeat(1, 1, per_group)
    count_B11 = shown_B1P.sum(2, keepdim=True)
    mean_BG1 = groups_BGP.sum(2, keepdim=True) / count_B11
    apart_BGP = torch.where(shown_B1P, groups_BGP - mean_BG1, 0)
    variance_BG1 = apart_BGP.square().sum(2, keepdim=True) / count_B11
    even_BMZYX = (apart_BGP * (variance_BG1 + norm.eps).rsqrt()).view_as(map_BMZYX)
    shape = (1, -1, *(1,) * (map_BMZYX.dim() - 2))
    scaled_BMZYX = even_BMZYX * norm.weight.view(shape) + norm.bias.view(shape)
    return torch.where(shown_B1ZYX, scaled_BMZYX, 0).to(map_BMZYX.dtype)


def _block(config: Spark.Config, encoder: Encoder) -> int:
    """Return the side of a block; ConfigError for other encoders and if one block covers all."""
    if not isinstance(encoder, Resnet):
        kind = type(encoder).__name__.lower()
        fault = (
            f"it makes convolutions sparse, and '{kind}' has none. Choose encoder "
            f"{', '.join(Spark.encoder_kinds)}, or method simmim, which trains every encoder."
        )
        raise ConfigError([fault], "method 'spark'")
    coarsest = encoder.map_strides[-1]
    usual = coarsest if max(encoder.size) >= 4 * coarsest else usual_block(encoder.size)
    return block_side(config.block or usual, encoder.size, "spark")
