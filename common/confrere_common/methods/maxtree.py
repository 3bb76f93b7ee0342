"""Max-tree: tell of each voxel which part it is of. https://doi.org/10.1109/IJCNN55064.2022.9892853.

Shapes: B images, C channels, K maps, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from confrere_common.augment.alike import moved_alike
from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.component_tree import attributes, quantised
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.heads import whole
from confrere_common.section import section

Attribute: TypeAlias = Literal["area", "depth", "contrast", "compactness"]


def _differing(names: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError("name at least one, each once")
    return names


class Maxtree(Method):
    """It trains an encoder with a U-Net's decoder to see what stands out where, without a label.

    The tree of the bright parts and that of the dark ones are built once for each stored image;
    their maps are turned, cut and mirrored with the view, and tell of parts of the whole image,
    also where the view shows a piece of it. No voxel's own brightness tells the size or the depth
    of its part. Which attributes and which loss the paper used could not be read (its abstract
    alone was at hand): these are ours, and no figure of the paper is claimed. Attributes are
    relative to the image itself, so no statistic of a site enters.
    """

    per_image = True
    wants = ("target",)

    @section
    class Config:
        """Defaults are ours: the paper's were not to be had."""

        levels: Annotated[int, Field(ge=2, le=256)] = 32
        """Steps of brightness, from each image's darkest voxel to its brightest. An image is
        labelled twice for each, once in a run: with 32 that took 0.01 s at 64 x 64 voxels, 0.1 s at
        224 x 224 and 0.7 s at 64 x 64 x 64 (one core)."""

        attributes: Annotated[tuple[Attribute, ...], AfterValidator(_differing)] = (
            "area",
            "depth",
            "contrast",
        )
        """What is told of the part of each voxel: area, depth, contrast, compactness."""

        bend: Annotated[float, Field(gt=0, le=1)] = 0.1
        """Difference from which on the loss grows linearly; attributes are 0 to 1."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = Decoder(encoder, 2 * len(config.attributes), config.width)

    def target(self, image_CZYX: Tensor) -> Tensor:
        """Return the maps of the bright parts, then of the dark ones, (K, [Z] Y X), uint8."""
        grey = image_CZYX.numpy().astype(np.float64).mean(axis=0)
        steps, top = quantised(grey, self.config.levels), self.config.levels - 1
        names = self.config.attributes
        trees = [attributes(one, top + 1, names) for one in (steps, top - steps)]
        maps = [tree[name] for tree in trees for name in names]
        return torch.from_numpy(np.rint(np.stack(maps) * 255).astype(np.uint8))

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the same as ``informed_views``; the targets are computed anew."""
        targets = torch.stack([self.target(one.cpu()) for one in images_BCZYX])
        return self.informed_views(
            images_BCZYX, [targets.to(images_BCZYX.device)], augment, generator
        )

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return augmented images, their maps (B, K, [Z] Y X), and what lies inside (B, 1, ...)."""
        (targets_BKZYX,) = known
        maps_BKZYX = targets_BKZYX.float() / 255
        return moved_alike(images_BCZYX, maps_BKZYX, augment, generator)

    def losses(self, *views: Tensor) -> Tensor:
        """Return the smooth absolute error over all voxels inside the image: 0 at best."""
        images_BCZYX, maps_BKZYX, inside_B1ZYX = views
        told_BKZYX = self.decoder(self.encoder.maps(images_BCZYX))
        told_BKZYX = whole(told_BKZYX)
        weights = inside_B1ZYX.to(told_BKZYX.dtype).expand_as(told_BKZYX)
        apart = smooth_l1_loss(
            told_BKZYX, maps_BKZYX.to(told_BKZYX.dtype), reduction="none", beta=self.config.bend
        )
        return (apart * weights).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp(min=1)
