"""MedSASS: segment what Otsu's threshold found, but distorted. https://arxiv.org/abs/2402.02367.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from confrere_common.augment.distort import distort
from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.method import Augment, Method
from confrere_common.parts import otsu
from confrere_common.parts.decoder import Decoder, Sides
from confrere_common.parts.heads import whole
from confrere_common.parts.overlap import soft_dice
from confrere_common.section import section


class Medsass(Method):
    """It trains a whole segmentation network, decoder and all, without a label.

    The mask is found on the view as the augmentation gives it; the network sees it with gamma,
    contrast, brightness, blur and noise changed and half of the images inverted. Without that a
    single 1 x 1 convolution would copy the threshold and the encoder would learn nothing. Which
    loss, network and rates the paper settled on could not be read (its abstract alone was at
    hand), so the defaults are ours and no figure of the paper is claimed. Images whose mask is
    nearly empty or nearly full have a loss of 0 (``dropped`` tells their share).
    """

    per_image = True
    figures = ("dropped",)

    @section
    class Config:
        """Defaults are ours: the paper's were not to be had."""

        network: Literal["decoder", "encoder"] = "decoder"
        """What is trained: the encoder and a U-Net's decoder end to end, which fine-tuning for
        segmentation starts from, or the encoder alone under one linear layer for each map."""

        polarity: otsu.Polarity = "border"
        """Which of Otsu's two classes is the object: the one that fills less of the image's border,
        the smaller one, or always the bright or the dark one."""

        channel: Annotated[int, Field(ge=0)] | None = None
        """The channel that is thresholded; left out, it is luminance in colour, else the mean."""

        least: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
        """Masks that fill less than this part of an image, or all but this, are dropped."""

        strength: Annotated[float, Field(ge=0, le=1)] = 1.0
        """How strongly the network's input is distorted; 0 not at all."""

        inverted: Annotated[float, Field(ge=0, le=1)] = 0.5
        """How many of the inputs swap dark and bright."""

        dice: Annotated[float, Field(ge=0)] = 1.0
        """Weight of one minus the soft Dice, beside the cross-entropy of voxels."""

        width: Annotated[int, Field(ge=2)] = 16
        """Channels of the decoder at the input's size."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        _must_have(config.channel, encoder.channels)
        self.config = config
        self.encoder = encoder
        self.decoder: nn.Module = (
            Decoder(encoder, 1, config.width) if config.network == "decoder" else Sides(encoder, 1)
        )

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return distorted images, masks of the undistorted ones (B, 1, [Z] Y X), whether used."""
        config = self.config
        clean_BCZYX = augment(images_BCZYX, generator)
        mask_B1ZYX = otsu.objects(otsu.grey(clean_BCZYX, config.channel), config.polarity)
        share_B = otsu.share(mask_B1ZYX)
        used_B = (share_B >= config.least) & (share_B <= 1 - config.least)
        distorted_BCZYX = distort(
            clean_BCZYX, generator, strength=config.strength, inverted=config.inverted
        )
        return distorted_BCZYX, mask_B1ZYX, used_B

    def losses(self, *views: Tensor) -> Tensor:
        """Return cross-entropy plus weighted one minus Dice: 0 at best, and for dropped images."""
        images_BCZYX, mask_B1ZYX, used_B = views
        logits_B1ZYX = self.segment(images_BCZYX)
        logits_B1ZYX = whole(logits_B1ZYX)
        truth_B1ZYX = mask_B1ZYX.to(logits_B1ZYX.dtype)
        wrong = binary_cross_entropy_with_logits(logits_B1ZYX, truth_B1ZYX, reduction="none")
        apart_B = soft_dice(logits_B1ZYX.sigmoid(), truth_B1ZYX)[:, 0]
        return (wrong.flatten(1).mean(1) + self.config.dice * apart_B) * used_B.to(apart_B.dtype)

    def segment(self, images_BCZYX: Tensor) -> Tensor:
        """Return logits of the object, (B, 1, [Z] Y X)."""
        logits_B1ZYX: Tensor = self.decoder(self.encoder.maps(images_BCZYX))
        return logits_B1ZYX

    def told(self, *views: Tensor) -> Mapping[str, float]:
        """Return the share of these views whose mask is degenerate, so that they teach nothing.

        In tenths: of a few dozen images a finer share would count single ones.
        """
        return {"dropped": round(10 * float((~views[2]).float().mean())) / 10}


def _must_have(channel: int | None, channels: int) -> None:
    if channel is not None and channel >= channels:
        fault = (
            f"channel is {channel}, but images have {channels} channel(s), counted from 0. Set "
            f"method.channel below {channels}, or leave it out."
        )
        raise ConfigError([fault], "method 'medsass'")
