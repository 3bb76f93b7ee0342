"""HeteroAE: what normal images do not foretell is odd. https://doi.org/10.1109/TIP.2024.3381435.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), M channels of a map, N cells of a
map, n cells of a coarser sight of it, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, scaled_dot_product_attention

from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.decoder import enlarged
from confrere_common.section import section

HEADS = (8, 4, 2)
"""Attention heads of the decoder's stages, deepest first; the last holds for all further ones."""

GROUPS = 8

Side: TypeAlias = Literal["both", "more", "less"]

LEAST = 1e-4
"""Added to errors, so that they have a logarithm."""

SHRINK = 0.1
"""Part of the mean spread over an image that is added to that of each place."""


class Heteroae(Method):
    """A decoder of convolutions and attention foretells the encoder's finer maps from its coarsest.

    Train it on normal images alone: where the maps of a new image are not foretold, it differs from
    them, as ``anomaly_maps`` say. Task ``anomaly`` scores images by them, may start from what was
    trained here (``finetune.start_decoder``), and for a coordinator puts each site's scores beside
    those of its own normal images, since scanners differ.

    What is smoother than normal is foretold too well, and scores below the normal: so do lungs with
    pneumonia at 28 px, where a low contrast alone tells more (docs/benefit.md). ``unusual``
    therefore asks of each place how its error differs from that of normal images there, and
    ``unlike`` takes the root of the mean square over places, errors that are larger and smaller.

    The paper's text was not at hand; this follows its abstract and a re-implementation's
    description. What is foretold is cut off from the gradient: an encoder that may move its own
    targets makes them constant. Attention sees coarser sights of a map by area means, in place of
    strided convolutions, so that it takes every size.
    """

    per_image = True
    beside = ("narrow", "decoder")

    @section
    class Config:
        """Defaults are those of the re-implementation, but for the bottleneck."""

        bottleneck: Annotated[int, Field(ge=4)] = 64
        """Channels of the coarsest map that the decoder sees: with all of them it may copy."""

        cosine: Annotated[float, Field(ge=0, le=1)] = 0.7
        """Weight of one minus the cosine between foretold and real; the squared error has the rest.
        Paper: 0.7."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        deep_first = encoder.map_channels[::-1]
        convolution = nn.Conv3d if len(encoder.size) == 3 else nn.Conv2d
        self.narrow = convolution(deep_first[0], config.bottleneck, 1)
        widths = (config.bottleneck, *deep_first[1:])
        self.decoder = nn.ModuleList(
            _Stage(ins, outs, stage, convolution)
            for stage, (ins, outs) in enumerate(pairwise(widths))
        )

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images."""
        return (augment(images_BCZYX, generator),)

    def losses(self, *views: Tensor) -> Tensor:
        """Return how badly each map but the coarsest is foretold, summed: 0 if exactly."""
        wrong = [
            self.config.cosine * _turned(guess, due).flatten(1).mean(1)
            + (1 - self.config.cosine) * (guess - due).square().flatten(1).mean(1)
            for guess, due in self.foretold(views[0])
        ]
        return torch.stack(wrong).sum(0)

    def foretold(self, images_BCZYX: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each map as the decoder foretells it, and as it is, deepest first."""
        *finer, coarsest = self.encoder.maps(images_BCZYX)
        seen: Tensor = self.narrow(coarsest.contiguous())
        pairs = []
        for stage, real in zip(self.decoder, finer[::-1], strict=True):
            seen = stage(seen, tuple(real.shape[2:]))
            kind = torch.promote_types(seen.dtype, torch.float32)
            pairs.append((seen.to(kind), real.detach().to(kind)))
        return pairs

    @torch.no_grad()
    def anomaly_maps(self, images_BCZYX: Tensor) -> Tensor:
        """Return how little each place of normalised images was foretold, (B, 1, [Z] Y X)."""
        turned = [_turned(guess, due)[:, None] for guess, due in self.foretold(images_BCZYX)]
        return torch.stack([enlarged(one, self.encoder.size) for one in turned]).sum(0)


@dataclass(frozen=True, kw_only=True)
class Usual:
    """How badly a site's normal images are foretold at each place, as logarithms."""

    mean_1ZYX: Tensor
    spread_1ZYX: Tensor


def usual_of(maps_N1ZYX: Tensor) -> Usual:
    """Return what anomaly maps of a site's own normal images have in common."""
    logs_N1ZYX = (maps_N1ZYX + LEAST).log()
    spread_1ZYX = logs_N1ZYX.std(0, correction=0)
    # Where all are alike, as in black corners, a trifle would else be many deviations.
    return Usual(
        mean_1ZYX=logs_N1ZYX.mean(0),
        spread_1ZYX=spread_1ZYX + SHRINK * spread_1ZYX.mean() + LEAST,
    )


def unusual(maps_B1ZYX: Tensor, usual: Usual, side: Side = "both") -> Tensor:
    """Return by how many deviations each place differs from usual, of the shape of the maps.

    *side*: what counts, errors that are larger, smaller ('less', smoother than normal), or both.
    """
    apart = ((maps_B1ZYX + LEAST).log() - usual.mean_1ZYX) / usual.spread_1ZYX
    return {"both": apart.abs(), "more": apart, "less": -apart}[side]


def unlike(maps_B1ZYX: Tensor, usual: Usual, side: Side = "both") -> Tensor:
    """Return how unlike normal images each is foretold over all places, (B,): about 1 is usual."""
    apart = unusual(maps_B1ZYX, usual, side).clamp(min=0)  # what lies on the other side is no merit
    return apart.square().flatten(1).mean(1).sqrt()


def _turned(guess_BMZYX: Tensor, due_BMZYX: Tensor) -> Tensor:
    """Return one minus the cosine between the features of each place, (B, [Z] Y X): 0 to 2."""
    return 1 - cosine_similarity(guess_BMZYX, due_BMZYX, dim=1)


class _Stage(nn.Module):
    """Enlarges a map and foretells the next finer one, by convolutions and by attention."""

    def __init__(
        self, ins: int, outs: int, stage: int, convolution: type[nn.Conv2d | nn.Conv3d]
    ) -> None:
        super().__init__()
        heads = gcd(HEADS[min(stage, len(HEADS) - 1)], outs)
        groups = gcd(GROUPS, max(1, outs // 2))
        self.enter = convolution(ins, outs, 1)
        self.near = nn.Sequential(
            convolution(outs, outs, 3, padding=1, bias=False),
            nn.GroupNorm(groups, outs),
            nn.ReLU(),
            convolution(outs, outs, 3, padding=1, bias=False),
            nn.GroupNorm(groups, outs),
        )
        self.far = _Sparse(outs, heads, (1 << stage, 2 << stage))
        self.leave = convolution(2 * outs, outs, 1)

    def forward(self, seen_BMZYX: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return a map of *size*."""
        entered = enlarged(self.enter(seen_BMZYX), size)
        left: Tensor = self.leave(torch.cat([self.near(entered), self.far(entered)], dim=1))
        return left


class _Sparse(nn.Module):
    """Every cell attends to two coarser sights of the map: half of the features to each."""

    def __init__(self, width: int, heads: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = scales if width % 2 == 0 else scales[:1]
        part = width // len(self.scales)
        self.heads = gcd(max(1, heads // len(self.scales)), part)
        self.before = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.keys_values = nn.ModuleList(nn.Linear(width, 2 * part) for _ in self.scales)
        self.attended = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, map_BMZYX: Tensor) -> Tensor:
        """Return a map of the same shape."""
        cells_BNM = map_BMZYX.flatten(2).transpose(1, 2)
        even_BNM = self.before(cells_BNM)
        even_BMZYX = even_BNM.transpose(1, 2).reshape(map_BMZYX.shape)
        queries = self.query(even_BNM).chunk(len(self.scales), dim=2)
        mixed = [
            self._attend(query, layer(_sight(even_BMZYX, scale)))
            for query, layer, scale in zip(queries, self.keys_values, self.scales, strict=True)
        ]
        cells_BNM = cells_BNM + self.attended(torch.cat(mixed, dim=2))
        cells_BNM = cells_BNM + self.perceptron(cells_BNM)
        same_BMZYX: Tensor = cells_BNM.transpose(1, 2).reshape(map_BMZYX.shape)
        return same_BMZYX

    def _attend(self, query_BNM: Tensor, both_Bnm: Tensor) -> Tensor:
        parts = (query_BNM, *both_Bnm.chunk(2, dim=2))
        split = [part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts]
        mixed_BHNd: Tensor = scaled_dot_product_attention(split[0], split[1], split[2])
        return mixed_BHNd.transpose(1, 2).flatten(2)


def _sight(map_BMZYX: Tensor, scale: int) -> Tensor:
    """Return the map's cells *scale* times coarser, (B, n, M)."""
    if scale > 1:
        size = [-(-side // scale) for side in map_BMZYX.shape[2:]]
        map_BMZYX = interpolate(map_BMZYX, size, mode="area")
    return map_BMZYX.flatten(2).transpose(1, 2)
