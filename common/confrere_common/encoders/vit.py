"""Vision Transformer: images cut into patches that attend to each other, with fixed positions.

Source: https://arxiv.org/abs/2010.11929, with the choices of masked autoencoders
(https://arxiv.org/abs/2111.06377): sine-cosine positions, Xavier initialisation. There is no class
token, so any subset of the patches can be encoded.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), N patches, n any number of them,
D features of a token, H heads of d features each, F = D features.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.parts.positions import sincos
from confrere_common.parts.tensor_train import TensorTrain, linear
from confrere_common.section import section

DIMS = {"tiny": 192, "small": 384, "base": 768}
DEPTH = 12
FEATURES_PER_HEAD = 64
FINER = (4, 2, 1)
"""How many times finer than the patch grid each map is, finest first."""


class Vit(Encoder):
    """A token sees the whole image from the first block on; features are the mean of all tokens."""

    @section
    class Config:
        """Sizes are those of DeiT (tiny, small, base); depth, dim and heads override them."""

        size: Literal["tiny", "small", "base"] = "tiny"
        """192, 384 or 768 features in 12 blocks with 3, 6 or 12 heads."""

        patch: Annotated[int, Field(ge=4, multiple_of=4)] | None = None
        """Voxels along each side of a patch. Left out, it is 4 if the longest side of the images is
        under 32, 8 up to 96 (in 3-D up to 64), and 16 beyond."""

        depth: Annotated[int, Field(ge=1)] | None = None
        """Number of blocks, in place of 12."""

        dim: Annotated[int, Field(ge=1)] | None = None
        """Features of a token, in place of those of the size."""

        heads: Annotated[int, Field(ge=1)] | None = None
        """Attention heads, in place of one for each 64 features; must divide the features."""

        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
        """Hidden features of a block's perceptron for each feature of a token."""

        tensor_train: TensorTrain | None = None
        """Whether the linear layers of the blocks are held as chains of small cores, as in
        ``{rank: 8}``: fewer bytes a round. They are joined by federation.rule tensor_train alone:
        the mean of the sites' cores is another layer."""

        @field_validator("heads")
        @classmethod
        def _divide_features(cls, heads: int | None, others: ValidationInfo) -> int | None:
            if not {"size", "dim"} <= others.data.keys():
                return heads
            dim = others.data["dim"] or DIMS[others.data["size"]]
            count = heads or _usual_heads(dim)
            if dim % count:
                raise ValueError(
                    f"{dim} features cannot be shared evenly among {count} heads; set heads to a "
                    f"divisor of {dim}"
                )
            return heads

    patch: int
    """Voxels along each side of a patch."""

    grid: tuple[int, ...]
    """Patches along [Z] Y X."""

    dim: int
    """Features D of a token."""

    def __init__(self, config: Config, *, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.dim = config.dim or DIMS[config.size]
        self.patch = config.patch or _usual_patch(size)
        self.grid = _grid(size, self.patch)
        self.width = self.dim
        self.map_channels = (self.dim,) * len(FINER)
        self.map_strides = tuple(self.patch // times for times in FINER)

        convolution = nn.Conv3d if len(size) == 3 else nn.Conv2d
        heads = config.heads or _usual_heads(self.dim)
        hidden = max(1, round(self.dim * config.mlp_ratio))
        option = config.tensor_train
        blocks = (_Block(self.dim, heads, hidden, option) for _ in range(config.depth or DEPTH))
        self.project = convolution(channels, self.dim, self.patch, stride=self.patch)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.positions_ND: Tensor
        self.register_buffer("positions_ND", sincos(self.grid, self.dim), persistent=False)
        self.apply(_initialise)

    def embed(self, images_BCZYX: Tensor) -> Tensor:
        """Return the patches as tokens with their positions, of shape (B, N, D), X fastest."""
        tokens_BND: Tensor = self.project(images_BCZYX).flatten(2).transpose(1, 2)
        return tokens_BND + self.positions_ND

    def encode(self, tokens_BnD: Tensor) -> Tensor:
        """Return any subset of the embedded tokens after all blocks and the last normalisation."""
        for block in self.blocks:
            tokens_BnD = block(tokens_BnD)
        normalised: Tensor = self.norm(tokens_BnD)
        return normalised

    def forward(self, images_BCZYX: Tensor) -> Tensor:
        """Return features of shape (B, F): the mean of all encoded tokens, without any map."""
        return self.encode(self.embed(images_BCZYX)).mean(1)

    def maps(self, images_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return three maps: a third, two thirds and the whole of the way through the blocks.

        Depths stand in for scales as in UNETR (https://arxiv.org/abs/2103.10504), but the earlier
        ones are upsampled 4 and 2 times linearly, so that maps add no parameter that
        pre-training would leave untrained; a head may learn to refine them. All go through the
        last normalisation, as DINO reads intermediate blocks.
        """
        tokens_BND = self.embed(images_BCZYX)
        seen = []
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
            seen.append(tokens_BND)
        thirds = [-(-len(seen) * third // 3) - 1 for third in (1, 2, 3)]
        chosen = zip(thirds, FINER, strict=True)
        return tuple(self._map(self.norm(seen[index]), times) for index, times in chosen)

    def pool(self, map_BCZYX: Tensor) -> Tensor:
        """Return the mean over all patches."""
        return map_BCZYX.flatten(2).mean(2)

    def _map(self, tokens_BND: Tensor, times: int) -> Tensor:
        map_BDZYX = tokens_BND.transpose(1, 2).reshape(-1, self.dim, *self.grid)
        if times == 1:
            return map_BDZYX
        mode = "trilinear" if len(self.grid) == 3 else "bilinear"
        return functional.interpolate(map_BDZYX, scale_factor=times, mode=mode)


class _Block(nn.Module):
    """Attention, then a perceptron, each normalised before and added to its input."""

    def __init__(self, dim: int, heads: int, hidden: int, option: TensorTrain | None) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(dim, eps=1e-6)
        self.query_key_value = linear(dim, 3 * dim, option)
        self.attended = linear(dim, dim, option)
        self.before_perceptron = nn.LayerNorm(dim, eps=1e-6)
        self.perceptron = nn.Sequential(
            linear(dim, hidden, option), nn.GELU(), linear(hidden, dim, option)
        )

    def forward(self, tokens_BnD: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        tokens_BnD = tokens_BnD + self._attend(self.before_attention(tokens_BnD))
        added: Tensor = tokens_BnD + self.perceptron(self.before_perceptron(tokens_BnD))
        return added

    def _attend(self, tokens_BnD: Tensor) -> Tensor:
        images, tokens, _ = tokens_BnD.shape
        split = self.query_key_value(tokens_BnD).reshape(images, tokens, 3, self.heads, -1)
        queries_BHnd, keys_BHnd, values_BHnd = split.permute(2, 0, 3, 1, 4).unbind(0)
        # torch.func.vmap has no rule for the CPU's fused kernel and warns: whoever maps over images
        # on a CPU does it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH).
        mixed_BHnd = functional.scaled_dot_product_attention(queries_BHnd, keys_BHnd, values_BHnd)
        out: Tensor = self.attended(mixed_BHnd.transpose(1, 2).flatten(2))
        return out


def _usual_heads(dim: int) -> int:
    return max(1, dim // FEATURES_PER_HEAD)


def _usual_patch(size: tuple[int, ...]) -> int:
    if max(size) < 32:
        return 4
    return 8 if max(size) <= (64 if len(size) == 3 else 96) else 16


def _grid(size: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """Return patches along each side; ConfigError unless they fill it."""
    if any(side % patch or side < patch for side in size):
        near = " x ".join(str(max(1, round(side / patch)) * patch) for side in size)
        sides = " x ".join(map(str, size))
        fault = (
            f"images of {sides} voxels are no whole number of patches of {patch}. Resize them to "
            f"{near}, or set encoder.patch to a multiple of 4 that divides every side."
        )
        raise ConfigError([fault], "encoder 'vit'")
    return tuple(side // patch for side in size)


def _initialise(module: nn.Module) -> None:
    """Draw Xavier-uniform weights, the patch projection's as those of a linear layer."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.data.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
