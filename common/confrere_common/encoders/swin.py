"""Swin: patches attend within windows that shift from block to block, at ever coarser scales.

Source: https://arxiv.org/abs/2103.14030, in the form of Swin UNETR
(https://arxiv.org/abs/2201.01266) and with MONAI's numbers, whose network it equals where windows
fill the grid (a test compares them). MONAI's own is not used: it folds windows into the batch, so
that the hooks that measure each image's gradient would take a window for an image; it gives a
window that is cut by a small grid the position bias of other places; and voxels that only fill up
a window are attended to there, here they are masked.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), D features of a cell, W windows, n
cells of a window, H heads of d features each.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.parts.tensor_train import TensorTrain, linear
from confrere_common.section import section

_Count = Annotated[int, Field(ge=1)]

FEATURES_PER_HEAD = 8
UNSEEN = -100.0
"""What is added to the score of a cell that must not be seen, as in the paper's code."""


MONAI = {
    "before_attention.": "norm1.", "query_key_value.": "attn.qkv.", "attended.": "attn.proj.",
    "bias.table": "attn.relative_position_bias_table", "before_perceptron.": "norm2.",
    "perceptron.0.": "mlp.linear1.", "perceptron.2.": "mlp.linear2.",
}  # fmt: skip
"""Parts of a block -> what MONAI calls them."""


class Swin(Encoder):
    """Cheaper than a transformer over all patches, and with maps at five strides, as a CNN's.

    Any size of image is taken: what a patch, a window or a merging lacks is filled up. Stages at
    which an image would be a single cell are left out.
    """

    @section
    class Config:
        """Defaults are those of MONAI's SwinUNETR; the paper of 3-D pre-training has dim 48."""

        LATER: ClassVar[tuple[str, ...]] = ("tensor_train",)

        dim: Annotated[int, Field(ge=4)] = 24
        """Features of the finest stage; each further one has twice as many, and as many heads."""

        depths: Annotated[tuple[_Count, ...], Field(min_length=2)] = (2, 2, 2, 2)
        """Blocks of each stage; windows shift in every second one. SMIT: 2, 2, 4, 2."""

        heads: Annotated[int, Field(ge=1)] | None = None
        """Heads of the finest stage, in place of one for each 8 features; must divide dim."""

        window: Annotated[int, Field(ge=2)] = 7
        """Cells along each side of a window. SMIT: 4."""

        patch: Annotated[int, Field(ge=1)] | None = None
        """Voxels along each side of a patch. Left out, it is 2, and in 2-D from 128 voxels on 4."""

        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
        """Hidden features of a block's perceptron for each feature of a cell."""

        tensor_train: TensorTrain | None = None
        """Whether the linear layers of the blocks are held as chains of small cores, as in
        ``{rank: 8}``: fewer bytes a round. They are joined by federation.rule tensor_train alone:
        the mean of the sites' cores is another layer."""

        @field_validator("heads")
        @classmethod
        def _divide_dim(cls, heads: int | None, others: ValidationInfo) -> int | None:
            dim = others.data.get("dim", heads)
            if dim is not None and dim % (heads or _usual_heads(dim)):
                raise ValueError(f"{dim} features cannot be shared evenly; choose a divisor of it")
            return heads

    def __init__(self, config: Config, *, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.patch = config.patch or (4 if len(size) == 2 and max(size) >= 128 else 2)
        grids = _grids(size, self.patch, len(config.depths))
        self.map_strides = tuple(self.patch << stage for stage in range(len(grids) + 1))
        self.map_channels = tuple(config.dim << stage for stage in range(len(grids) + 1))
        self.width = self.map_channels[-1]

        convolution = nn.Conv3d if len(size) == 3 else nn.Conv2d
        heads = config.heads or _usual_heads(config.dim)
        self.project = convolution(channels, config.dim, self.patch, stride=self.patch)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Block(config, stage, heads << stage, _Windows(grid, config.window, turn % 2))
                    for turn in range(config.depths[stage])
                ),
                _Merge(config.dim << stage, len(size)),
            )
            for stage, grid in enumerate(grids)
        )
        self.apply(_initialise)

    def maps(self, images_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return the embedded patches and what each stage merges, normalised, finest first."""
        filled_BCZYX = _filled(images_BCZYX, (self.patch,) * len(self.size), first=2)
        cells_BZYXD = self.project(filled_BCZYX).movedim(1, -1)
        seen = [cells_BZYXD]
        for stage in self.stages:
            cells_BZYXD = stage(cells_BZYXD)
            seen.append(cells_BZYXD)
        return tuple(functional.layer_norm(one, one.shape[-1:]).movedim(-1, 1) for one in seen)

    def monai_state(self) -> dict[str, Tensor]:
        """Return the weights as MONAI's SwinTransformer names them (``SwinUNETR(...).swinViT``).

        It must have the same features, depths, heads and window, and ``downsample="mergingv2"``;
        then ``load_state_dict(..., strict=False)`` takes all of them, and lacks only the stages
        that this encoder left out and what it computes itself.
        """
        found = {}
        for name, weight in self.state_dict().items():
            top, *rest = name.split(".")
            if top == "project":
                found[f"patch_embed.proj.{rest[0]}"] = weight
                continue
            stage, block, tail = f"layers{int(rest[0]) + 1}.0", rest[1], ".".join(rest[2:])
            if tail.startswith(("norm.", "reduce.")):
                if len(self.size) == 2:  # where MONAI joins columns before rows
                    weight = weight.unflatten(-1, (2, 2, -1)).transpose(-3, -2).flatten(-3)
                found[f"{stage}.downsample.{tail.replace('reduce', 'reduction')}"] = weight
                continue
            own = next((name for name in MONAI if tail.startswith(name)), "")
            found[f"{stage}.blocks.{block}.{MONAI.get(own, '')}{tail.removeprefix(own)}"] = weight
        return found

    def pool(self, map_BCZYX: Tensor) -> Tensor:
        """Return the mean over all places."""
        return map_BCZYX.flatten(2).mean(2)


class _Windows:
    """How a grid is cut into windows, shifted by half of one or not."""

    def __init__(self, grid: tuple[int, ...], window: int, shifted: int) -> None:
        self.grid = grid
        self.sides = tuple(min(window, cells) for cells in grid)
        # What one window holds need not move.
        self.shift = tuple(shifted * (window // 2) if cells > window else 0 for cells in grid)
        self.axes = tuple(range(1, 1 + len(grid)))

    def cut(self, cells_BZYXD: Tensor) -> Tensor:
        """Return windows of cells, (B, W, n, D)."""
        cells_BZYXD = _filled(cells_BZYXD, self.sides, first=1)
        if any(self.shift):
            cells_BZYXD = cells_BZYXD.roll([-shift for shift in self.shift], self.axes)
        pairs = [part for whole, side in self._counts() for part in (whole, side)]
        split = cells_BZYXD.reshape(cells_BZYXD.shape[0], *pairs, -1)
        axes = len(self.grid)
        order = (0, *range(1, 1 + 2 * axes, 2), *range(2, 2 + 2 * axes, 2), 1 + 2 * axes)
        return split.permute(order).flatten(1, axes).flatten(2, 1 + axes)

    def joined(self, windows_BWnD: Tensor) -> Tensor:
        """Return the cells where they were: the inverse of ``cut``."""
        counts, axes = [whole for whole, _ in self._counts()], len(self.grid)
        split = windows_BWnD.reshape(windows_BWnD.shape[0], *counts, *self.sides, -1)
        order = [place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)]
        whole = [count * side for count, side in self._counts()]
        cells_BZYXD = split.permute(0, *order, 1 + 2 * axes).reshape(split.shape[0], *whole, -1)
        if any(self.shift):
            cells_BZYXD = cells_BZYXD.roll(self.shift, self.axes)
        for axis, cells in enumerate(self.grid, start=1):
            cells_BZYXD = cells_BZYXD.narrow(axis, 0, cells)
        return cells_BZYXD

    def unseen(self) -> Tensor:
        """Return what is added to the scores so that only neighbours see each other, (W, 1, n, n).

        A roll brings opposite edges into one window; they are no neighbours, nor is what fills it.
        """
        regions = torch.ones(1, *self.grid, 1)
        for axis, (cells, shift) in enumerate(zip(self.grid, self.shift, strict=True)):
            shape = [1] * len(self.grid) + [1, 1]
            shape[1 + axis] = cells
            regions = 2 * regions + (torch.arange(cells) < shift).view(shape)
        regions_Wn = self.cut(regions)[0, :, :, 0]
        apart = regions_Wn[:, :, None] != regions_Wn[:, None, :]
        return (apart * UNSEEN)[:, None]

    def _counts(self) -> list[tuple[int, int]]:
        return [
            (-(-cells // side), side) for cells, side in zip(self.grid, self.sides, strict=True)
        ]


class _Bias(nn.Module):
    """Adds to each score what was learned of how the two cells lie to each other."""

    def __init__(self, sides: tuple[int, ...], window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** len(sides), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.sides, self.window = sides, window

    def forward(self, scores_BWHnn: Tensor) -> Tensor:
        """Return scores of the same shape."""
        # Made anew: the hooks refuse a layer that holds a buffer beside its weights.
        places_nn = _offsets(self.sides, self.window, scores_BWHnn.device)
        bias_Hnn = self.table[places_nn].movedim(-1, 0)
        return scores_BWHnn + bias_Hnn.to(scores_BWHnn.dtype)


class _Block(nn.Module):
    """Attention within windows, then a perceptron, each normalised before and added."""

    def __init__(self, config: Swin.Config, stage: int, heads: int, windows: _Windows) -> None:
        super().__init__()
        dim = config.dim << stage
        hidden, option = max(1, int(dim * config.mlp_ratio)), config.tensor_train
        self.heads, self.windows = heads, windows
        self.before_attention = nn.LayerNorm(dim)
        self.query_key_value = linear(dim, 3 * dim, option)
        self.bias = _Bias(windows.sides, config.window, heads)
        self.attended = linear(dim, dim, option)
        self.before_perceptron = nn.LayerNorm(dim)
        self.perceptron = nn.Sequential(
            linear(dim, hidden, option), nn.GELU(), linear(hidden, dim, option)
        )
        self.unseen_W1nn: Tensor
        self.register_buffer("unseen_W1nn", windows.unseen(), persistent=False)

    def forward(self, cells_BZYXD: Tensor) -> Tensor:
        """Return cells of the same shape."""
        windows_BWnD = self.windows.cut(self.before_attention(cells_BZYXD))
        cells_BZYXD = cells_BZYXD + self.windows.joined(self._attend(windows_BWnD))
        added: Tensor = cells_BZYXD + self.perceptron(self.before_perceptron(cells_BZYXD))
        return added

    def _attend(self, windows_BWnD: Tensor) -> Tensor:
        split = self.query_key_value(windows_BWnD).unflatten(-1, (3, self.heads, -1))
        queries_BWHnd, keys_BWHnd, values_BWHnd = split.movedim(2, -2).unbind(2)
        scores_BWHnn = queries_BWHnd @ keys_BWHnd.transpose(-2, -1)
        scores_BWHnn = self.bias(scores_BWHnn * queries_BWHnd.shape[-1] ** -0.5)
        weights_BWHnn = (scores_BWHnn + self.unseen_W1nn).softmax(-1).to(values_BWHnd.dtype)
        mixed_BWnD = (weights_BWHnn @ values_BWHnd).transpose(2, 3).flatten(3)
        out: Tensor = self.attended(mixed_BWnD)
        return out


class _Merge(nn.Module):
    """Joins the cells of each 2 x 2 (x 2) to one of twice the features."""

    def __init__(self, dim: int, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.norm = nn.LayerNorm(dim << axes)
        self.reduce = nn.Linear(dim << axes, 2 * dim, bias=False)

    def forward(self, cells_BZYXD: Tensor) -> Tensor:
        """Return half as many cells along each axis; an odd last one is joined to zeros."""
        cells_BZYXD = _filled(cells_BZYXD, (2,) * self.axes, first=1)
        pairs = [part for side in cells_BZYXD.shape[1:-1] for part in (side // 2, 2)]
        split = cells_BZYXD.reshape(cells_BZYXD.shape[0], *pairs, -1)
        whole = range(1, 1 + 2 * self.axes, 2)
        within = range(2, 2 + 2 * self.axes, 2)
        joined = split.permute(0, *whole, *within, 1 + 2 * self.axes).flatten(1 + self.axes)
        merged: Tensor = self.reduce(self.norm(joined))
        return merged


def _filled(images: Tensor, sides: Sequence[int], *, first: int) -> Tensor:
    """Return *images* with zeros behind, so that *sides* divide the axes from *first* on."""
    lacks = [-images.shape[first + axis] % side for axis, side in enumerate(sides)]
    if not any(lacks):
        return images
    behind = images.dim() - first - len(sides)
    ends = [part for lack in reversed(lacks) for part in (0, lack)]
    return functional.pad(images, [0, 0] * behind + ends)


def _offsets(sides: tuple[int, ...], window: int, device: torch.device) -> Tensor:
    """Return the row of the bias table for each pair of a window's cells, (n, n)."""
    lines = [torch.arange(side, device=device) for side in sides]
    cells_nA = torch.cartesian_prod(*lines).reshape(-1, len(sides))
    apart_nnA = cells_nA[:, None] - cells_nA[None, :] + window - 1
    place_nn = apart_nnA[..., 0]
    for axis in range(1, len(sides)):
        place_nn = place_nn * (2 * window - 1) + apart_nnA[..., axis]
    return place_nn


def _usual_heads(dim: int) -> int:
    return max(1, dim // FEATURES_PER_HEAD)


def _grids(size: tuple[int, ...], patch: int, stages: int) -> list[tuple[int, ...]]:
    """Return the cells of each stage that has more than one; ConfigError below two stages."""
    strides = [patch << stage for stage in range(stages)]
    grids = [tuple(-(-side // stride) for side in size) for stride in strides]
    found = [grid for grid in grids if max(grid) > 1]
    if len(found) < 2:
        sides = " x ".join(map(str, size))
        fault = (
            f"images of {sides} voxels are {' x '.join(map(str, grids[0]))} patches of {patch}, "
            f"too few for two scales. Use images of {2 * patch + 1} voxels or more, or a smaller "
            "encoder.patch."
        )
        raise ConfigError([fault], "encoder 'swin'")
    return found


def _initialise(module: nn.Module) -> None:
    """Draw the truncated normal weights of the paper's code."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
