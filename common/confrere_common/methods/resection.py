"""Resection: find a cavity that was cut into the image. https://doi.org/10.1007/s11548-021-02420-2.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from confrere_common.augment.alike import moved_alike
from confrere_common.augment.resection import VOLUMES, Texture, draw_cavities, foreground, resect
from confrere_common.encoder import Encoder
from confrere_common.method import Augment, Method
from confrere_common.parts.decoder import Decoder
from confrere_common.parts.heads import whole
from confrere_common.parts.overlap import soft_dice
from confrere_common.section import section


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"limits are written [low, high]; {limits[0]} is above {limits[1]}")
    return limits


_Positive = Annotated[float, Field(gt=0)]
_Part = Annotated[float, Field(gt=0, le=0.5)]
_Edge = Annotated[float, Field(gt=0, le=1)]


class Resection(Method):
    """It trains a segmentation network whose very task is of use: cavities after surgery.

    What is cut, and where that departs from the paper: ``augment.resection``. Cavities are cut
    into the view, after the augmentation that the paper puts behind them, because that alone knows
    where voxels went. Encoder and decoder are shared; fine-tuning for segmentation may start from
    both. A mask of the images can say where cavities may lie (``allowed: mask``): a parcellation,
    as the paper has it, without the other hemisphere, brainstem and cerebellum.
    """

    per_image = True

    @section
    class Config:
        """Defaults are the paper's, lengths taken as parts of its volumes."""

        LATER: ClassVar[tuple[str, ...]] = ("allowed",)

        volume: Annotated[tuple[_Part, _Part], AfterValidator(_ordered)] = VOLUMES
        """Least and most of an image's volume that a cavity takes; in 2-D the area is that of such
        a ball's middle plane. Paper: 844 to 83,757 mm3 in volumes of 193 x 229 x 193 mm."""

        aspect: Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)] = (1.0, 2.0)
        """How much longer than a ball's one semi-axis is; another is shorter by as much."""

        edge: Annotated[tuple[_Edge, _Edge], AfterValidator(_ordered)] = (0.5, 1.0)
        """Width of the soft edge in voxels. Paper: 0.5 to 1 mm at 1 mm."""

        roughness: Annotated[float, Field(ge=0, le=2)] = 1.0
        """How far the surface rises and falls; 0 cuts ellipsoids."""

        texture: Texture = "csf"
        """What fills a cavity: noise of dark fluid (csf), the 1st percentile of the foreground's
        intensities (dark), or any percentile of them (random). Paper: csf."""

        allowed: Literal["foreground", "mask"] = "foreground"
        """Where cavities may lie: in what Otsu's threshold finds, or where the images' own masks
        are above 0 (column mask of a catalog); an image whose mask is empty keeps to the first."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size. Paper: a U-Net of 8."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = Decoder(encoder, 1, config.width)
        self.wants = ("mask",) if config.allowed == "mask" else ()

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return images with a cavity in each, and where it is (bool, (B, 1, [Z] Y X))."""
        whole_BCZYX = augment(images_BCZYX, generator)
        return self._cut(whole_BCZYX, foreground(whole_BCZYX), generator)

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return the same, cavities where the masks (B, [Z] Y X) are above 0 if they are known."""
        if not known:
            return self.views(images_BCZYX, augment, generator)
        mask_B1ZYX = (known[0][:, None] > 0).float()
        whole_BCZYX, moved_B1ZYX, _ = moved_alike(images_BCZYX, mask_B1ZYX, augment, generator)
        allowed_B1ZYX = moved_B1ZYX > 0.5
        any_B = allowed_B1ZYX.flatten(1).any(1).view(-1, *[1] * (allowed_B1ZYX.dim() - 1))
        allowed_B1ZYX = torch.where(any_B, allowed_B1ZYX, foreground(whole_BCZYX))
        return self._cut(whole_BCZYX, allowed_B1ZYX, generator)

    def _cut(
        self, whole_BCZYX: Tensor, allowed_B1ZYX: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        config = self.config
        cavities = draw_cavities(
            len(whole_BCZYX),
            len(self.encoder.size),
            generator,
            volumes=config.volume,
            aspects=config.aspect,
            edges=config.edge,
        )
        return resect(
            whole_BCZYX,
            cavities,
            allowed_B1ZYX=allowed_B1ZYX,
            texture=config.texture,
            roughness=config.roughness,
        )

    def losses(self, *views: Tensor) -> Tensor:
        """Return one minus the soft Dice, mean over cavity and rest: 0 to 1, as in the paper."""
        images_BCZYX, cavity_B1ZYX = views
        logits_B1ZYX = self.segment(images_BCZYX)
        inside = whole(logits_B1ZYX).sigmoid()
        truth = cavity_B1ZYX.to(inside.dtype)
        both = torch.cat([inside, 1 - inside], dim=1), torch.cat([truth, 1 - truth], dim=1)
        return soft_dice(*both).mean(1)

    def segment(self, images_BCZYX: Tensor) -> Tensor:
        """Return logits of the cavity, (B, 1, [Z] Y X)."""
        logits_B1ZYX: Tensor = self.decoder(self.encoder.maps(images_BCZYX))
        return logits_B1ZYX
