"""Detection: at each place of the encoder's maps, what is there and how far its box reaches.

FCOS (https://arxiv.org/abs/1904.01355): no anchors; a map answers for boxes of its own scale; focal
loss over classes (https://arxiv.org/abs/1708.02002), IoU loss over boxes, and how central a place
is. Deviations: losses are means over an image's own places, so that each image stands alone, and
the head sees whole images, moved by mirrors alone (a turned box is no box). A class that is left
out at a site (``finetune.missing``) has no part in the focal loss there; each class has a sigmoid
of its own, so the others are taught as ever.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), M boxes (padded with NaN), P places of
all maps, K classes, D axes in the order X Y [Z].
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from confrere_common.augment.pipeline import Pipeline
from confrere_common.augment.presets import Ranges
from confrere_common.encoder import Encoder
from confrere_common.method import Augment
from confrere_common.parts.decoder import enlarged
from confrere_common.parts.lacking import present
from confrere_common.section import section
from confrere_common.task import FineTask

RARE = 0.01
"""Probability that a place holds a class before anything is learned."""

REACH = 4.0
"""A map answers for boxes that reach this many strides at most; the next for those beyond."""

STILL = Ranges()
"""Ranges that leave an image as it is."""


def still(ranges: Ranges) -> Ranges:
    """Return the ranges without what moves a voxel."""
    return replace(
        ranges,
        area=STILL.area, aspect=STILL.aspect, rotation_degrees=0.0, tilt_degrees=0.0,
        quarter_turns=False, translation=0.0, flips=STILL.flips,
    )  # fmt: skip


class Detection(FineTask):
    """finetune.classes names what boxes hold."""

    marks = "boxes"
    wants = ("boxes", "prior")

    @section
    class Config:
        """Defaults are the paper's, but for the width."""

        width: Annotated[int, Field(ge=4)] = 64
        """Channels of the head."""

        focal: Annotated[float, Field(ge=0)] = 2.0
        """Exponent of the focal loss."""

        flips: Annotated[float, Field(ge=0, le=1)] = 0.5
        """Probability of a mirror image along each axis in the plane."""

    def __init__(self, config: Config, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__(encoder, classes)
        self.config = config
        self.axes = len(encoder.size)
        coarse = [k for k, stride in enumerate(encoder.map_strides) if stride >= 2]
        self.levels = coarse or [len(encoder.map_strides) - 1]
        self.head = _Head(encoder, self.levels, config.width, len(classes))
        places, strides, least, most = _places(encoder, self.levels)
        for name, tensor in (("places_PD", places), ("strides_P", strides),
                             ("least_P", least), ("most_P", most)):  # fmt: skip
            self.register_buffer(name, tensor, persistent=False)

    places_PD: Tensor
    strides_P: Tensor
    least_P: Tensor
    most_P: Tensor

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return images, and for each place its class (-1 for none), its reach, its centrality.

        Last is which classes stay in the loss, (B, K).
        """
        if isinstance(augment, Pipeline):
            augment = replace(augment, ranges=still(augment.ranges))
        views_BCZYX, boxes_BM = self._mirrored(
            augment(images_BCZYX, generator), known[0], generator
        )
        return (views_BCZYX, *self._due(boxes_BM), present(known[1]))

    def losses(self, *views: Tensor) -> Tensor:
        """Return focal loss of the classes, IoU loss of the boxes and entropy of centrality."""
        images_BCZYX, kinds_BP, reach_BPE, central_BP, stays_BK = views
        logits_BPK, found_BPE, middle_BP = self._found(images_BCZYX)
        there_BP = (kinds_BP >= 0).to(logits_BPK.dtype)
        count_B = there_BP.sum(1).clamp(min=1)
        kinds_K = torch.arange(logits_BPK.shape[2], device=kinds_BP.device)
        truth_BPK = (kinds_BP[..., None] == kinds_K).to(logits_BPK.dtype)
        each = binary_cross_entropy_with_logits(logits_BPK, truth_BPK, reduction="none")
        hard = (1 - torch.exp(-each)).clamp(min=1e-6) ** self.config.focal
        weight = (0.25 * truth_BPK + 0.75 * (1 - truth_BPK)) * stays_BK[:, None]
        kind_B = (weight * hard * each).sum((1, 2)) / count_B
        central_BP = central_BP.to(logits_BPK.dtype)
        overlap_BP = _overlap(found_BPE, reach_BPE.to(logits_BPK.dtype))
        weights_BP = there_BP * central_BP
        box_B = (-(overlap_BP.log()) * weights_BP).sum(1) / weights_BP.sum(1).clamp(min=1e-6)
        middle = binary_cross_entropy_with_logits(middle_BP, central_BP, reduction="none")
        return kind_B + box_B + (middle * there_BP).sum(1) / count_B

    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return, for each place, low and high corner along X Y [Z], then each class's score."""
        logits_BPK, found_BPE, middle_BP = (part.float() for part in self._found(images_BCZYX))
        low, high = torch.split(found_BPE, self.axes, dim=2)
        scores_BPK = (logits_BPK.sigmoid() * middle_BP.sigmoid()[..., None]).sqrt()
        return torch.cat([self.places_PD - low, self.places_PD + high, scores_BPK], dim=2)

    def _found(self, images_BCZYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        every = self.head(self.encoder.maps(images_BCZYX))
        every = every.to(torch.promote_types(every.dtype, torch.float32))
        logits, reach, middle = torch.split(every, [len(self.classes), 2 * self.axes, 1], dim=2)
        strides_P1 = self.strides_P[:, None].to(every.dtype)
        return logits, softplus(reach) * strides_P1 + 1e-3, middle[..., 0]

    def _mirrored(
        self, views_BCZYX: Tensor, boxes_BM: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        drawn_2B = torch.rand(2, len(views_BCZYX), generator=generator) < self.config.flips
        boxes_BM = boxes_BM.clone()
        for axis, flips in enumerate(drawn_2B.to(views_BCZYX.device)):
            shape = (-1, *[1] * (views_BCZYX.dim() - 1))
            views_BCZYX = torch.where(flips.view(shape), views_BCZYX.flip(-1 - axis), views_BCZYX)
            low, high = boxes_BM[..., axis].clone(), boxes_BM[..., axis + self.axes].clone()
            side = self.encoder.size[-1 - axis]
            boxes_BM[..., axis] = torch.where(flips[:, None], side - high, low)
            boxes_BM[..., axis + self.axes] = torch.where(flips[:, None], side - low, high)
        return views_BCZYX, boxes_BM

    def _due(self, boxes_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class, reach and centrality of each place: that of the smallest box about it."""
        low, high, kinds_BM = torch.split(boxes_BM, [self.axes, self.axes, 1], dim=2)
        places = self.places_PD[None, :, None]
        reach = torch.cat([places - low[:, None], high[:, None] - places], dim=3)
        farthest = reach.amax(3)
        right = (reach.amin(3) > 0) & (farthest > self.least_P[:, None])
        right &= farthest <= self.most_P[:, None]
        area_BM = (high - low).prod(2)
        area = torch.where(right, area_BM[:, None], math.inf)
        smallest, which_BP = area.nan_to_num(math.inf, posinf=math.inf).min(2)
        there_BP = smallest.isfinite()
        kinds_BP = kinds_BM[..., 0].gather(1, which_BP)
        chosen = reach.gather(2, which_BP[..., None, None].expand(-1, -1, 1, reach.shape[3]))
        reach_BPE = torch.where(there_BP[..., None], chosen[:, :, 0], 1.0)
        one, other = torch.split(reach_BPE, self.axes, dim=2)
        central_BP = (torch.minimum(one, other) / torch.maximum(one, other)).prod(2).sqrt()
        return torch.where(there_BP, kinds_BP, -1.0).long(), reach_BPE, central_BP


class _Head(nn.Module):
    """One head for all maps, which pass what they see from coarse to fine first."""

    def __init__(self, encoder: Encoder, levels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        axes = len(encoder.size)
        convolution = nn.Conv3d if axes == 3 else nn.Conv2d
        self.levels = tuple(levels)
        self.sides = nn.ModuleList(convolution(encoder.map_channels[k], width, 1) for k in levels)
        groups = math.gcd(8, max(1, width // 2))
        self.tower = nn.Sequential(
            convolution(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU()
        )
        self.out = convolution(width, classes + 2 * axes + 1, 3, padding=1)
        nn.init.normal_(self.out.weight, std=0.01)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)
            nn.init.constant_(self.out.bias[:classes], -math.log((1 - RARE) / RARE))

    def forward(self, maps_BMZYX: Sequence[Tensor]) -> Tensor:
        """Return what is found at each place of the maps, finest first, (B, P, ...)."""
        seen: list[Tensor] = []
        for level, side in zip(self.levels[::-1], list(self.sides)[::-1], strict=True):
            own = side(maps_BMZYX[level])
            seen.append(own + enlarged(seen[-1], tuple(own.shape[2:])) if seen else own)
        parts = [self.out(self.tower(one)).flatten(2).transpose(1, 2) for one in seen[::-1]]
        return torch.cat(parts, dim=1)


def _places(encoder: Encoder, levels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return places (P, D) along X Y [Z], their strides, and the reach that they answer for."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    least = 0.0
    for number, level in enumerate(levels):
        stride = encoder.map_strides[level]
        lines = [(torch.arange(-(-side // stride)) + 0.5) * stride for side in encoder.size]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], dim=-1)
        places = grid.reshape(-1, len(lines)).float()
        most = math.inf if number == len(levels) - 1 else REACH * stride
        ones = torch.ones(len(places))
        parts.append((places, ones * stride, ones * least, ones * most))
        least = most
    one, two, three, four = zip(*parts, strict=True)
    return torch.cat(one), torch.cat(two), torch.cat(three), torch.cat(four)


def _overlap(found: Tensor, due: Tensor) -> Tensor:
    """Return the IoU of boxes about the same place, by how far they reach; above 0."""
    axes = found.shape[-1] // 2

    def volume(reach: Tensor) -> Tensor:
        return (reach[..., :axes] + reach[..., axes:]).prod(-1)

    shared = volume(torch.minimum(found, due))
    return (shared + 1e-6) / (volume(found) + volume(due) - shared + 1e-6)
