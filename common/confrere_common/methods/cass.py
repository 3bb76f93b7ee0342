"""CASS: a CNN and a transformer agree on one image. https://arxiv.org/abs/2206.04170.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features, P voxels and channels of
a thumbnail.
"""

from math import gcd
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from confrere_common.encoder import Encoder, build_encoder
from confrere_common.family import Named
from confrere_common.method import Augment, Method
from confrere_common.parts import teacher
from confrere_common.parts.heads import Scaled, calibrate, in_one_pass, perceptron, whole
from confrere_common.parts.thumbnail import small, thumbnails
from confrere_common.section import section

THUMBNAIL = 8
"""Voxels along each side of the image that the guard asks for."""

GROUPS = 8


class Cass(Method):
    """Two unlike networks see one view: what both see is hardly an accident of either.

    In the paper nothing but ImageNet's weights keeps both from answering every image alike, which
    costs nothing (and its code never zeroes gradients). Here both start at random, so four things
    are added: projectors, predictors with stopped gradients as in SimSiam, calibration of both on
    noise (``heads.calibrate``), and a guard: from each projection a thumbnail of the image must be
    told. The usual guard, a least variance over the batch, would couple images. Measured on drawn
    blobs at 32 px, 40 steps of AdamW at 1e-3: projections of unlike images spread 0.041 with the
    guard, 0.005 without; the encoder's features 0.036 and 0.015, where the untrained had 0.111.
    On dermatoscopy at 64 px (200 steps at 2e-3, batches of 32, one seed) features fell from a
    deviation (times the root of F) of 0.21 to 0.10 in 50 steps, while the rate rose, came back to
    0.14, and were 0.13 at the end, the projections 0.95, 0.36, 0.62, 0.60: images stay apart, in
    far fewer directions (RankMe 42 to 8). A teacher that follows slowly was not measured.
    """

    per_image = True

    @section
    class Config:
        """The partner is of the other family; widths suit small encoders."""

        partner: Literal["auto", "resnet", "vit"] = "auto"
        """The second network; 'auto' is a ResNet beside a transformer and else a ViT. Paper: a
        ResNet-50 and a ViT-B/16."""

        partner_width: Annotated[int, Field(ge=8)] | None = None
        """Features of a token of a ViT, channels of the first stage of a ResNet, in place of 192
        and 64."""

        share: Literal["both", "exported"] = "both"
        """Whether the partner travels as well ('both'), or stays at its site, where it begins alike
        everywhere and is trained, as a teacher that no one else sees ('exported')."""

        guard: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the thumbnail's squared error. With 0 nothing forbids collapse."""

        hidden: Annotated[int, Field(ge=1)] = 512
        """Features between the layers of projectors and predictors. The paper has none of them."""

        out: Annotated[int, Field(ge=2)] = 128
        """Features on which both networks agree. Paper: the 1000 outputs for ImageNet's classes."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head = _Head(config, encoder)
        self.partner = self._partner()

    def views(
        self, images_BCZYX: Tensor, augment: Augment, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the augmented images: both networks see the same."""
        return (augment(images_BCZYX, generator),)

    def losses(self, *views: Tensor) -> Tensor:
        """Return how badly each network foretells the other, 0 to 4, plus the guard."""
        (images_BCZYX,) = views
        (own_BF,) = in_one_pass(self._own, images_BCZYX)
        (other_BF,) = in_one_pass(self._other, images_BCZYX)
        one_B = _misses(self.head.predict(own_BF), other_BF.detach())
        two_B = _misses(self.partner.head.predict(other_BF), own_BF.detach())
        losses_B = (one_B + two_B) / 2
        if not self.config.guard:
            return losses_B
        due_BP = thumbnails(images_BCZYX, THUMBNAIL)
        untold_B = self.head.untold(own_BF, due_BP) + self.partner.head.untold(other_BF, due_BP)
        return losses_B + self.config.guard * untold_B

    def is_shared(self, name: str) -> bool:
        """Say whether the parameter called *name* travels; the partner's do as ``share`` says."""
        return self.config.share == "both" or not name.startswith("partner.")

    @torch.no_grad()
    def start_local(self) -> None:
        """Draw a partner that stays at the site anew, always alike."""
        if self.config.share == "exported":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                teacher.become(self.partner, self._partner())

    def _own(self, images_BCZYX: Tensor) -> Tensor:
        projected_BF: Tensor = self.head.project(self.encoder(images_BCZYX))
        return projected_BF

    def _other(self, images_BCZYX: Tensor) -> Tensor:
        projected_BF: Tensor = self.partner.head.project(self.partner.encoder(images_BCZYX))
        return projected_BF

    def _partner(self) -> "_Partner":
        kind = _kind(self.config, self.encoder)
        named = Named(name=kind, knobs=_knobs(kind, self.config.partner_width))
        encoder = build_encoder(named, channels=self.encoder.channels, size=self.encoder.size)
        return _Partner(encoder, _Head(self.config, encoder))


class _Head(nn.Module):
    """What stands on one of the two networks."""

    def __init__(self, config: Cass.Config, encoder: Encoder) -> None:
        super().__init__()
        hidden, out = config.hidden, config.out
        self.project = perceptron((encoder.width, hidden, out), norm=Scaled, norm_last=True)
        self.predict = perceptron((out, hidden, out), norm=Scaled)
        calibrate(encoder, self.project, self.predict)
        voxels = torch.Size(small(encoder.size, THUMBNAIL)).numel() * encoder.channels
        self.tell = nn.Linear(out, voxels) if config.guard else None

    def untold(self, projected_BF: Tensor, due_BP: Tensor) -> Tensor:
        """Return the mean squared error of the thumbnail told from a projection, (B,)."""
        if self.tell is None:
            return torch.zeros_like(projected_BF[:, 0])
        told_BP: Tensor = self.tell(projected_BF)
        return (whole(told_BP) - due_BP).square().mean(1)


class _Partner(nn.Module):
    """The second network with its head."""

    def __init__(self, encoder: Encoder, head: _Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head


def _misses(guesses_BF: Tensor, targets_BF: Tensor) -> Tensor:
    """Return the squared distance of each guess to its target on the unit sphere, 0 to 4."""
    return 2 - 2 * cosine_similarity(whole(guesses_BF), whole(targets_BF))


def _kind(config: Cass.Config, encoder: Encoder) -> str:
    """Return the name of the partner."""
    if config.partner != "auto":
        return config.partner
    return "resnet" if type(encoder).__name__.lower() in ("vit", "swin") else "vit"


def _knobs(kind: str, width: int | None) -> dict[str, Any]:
    if width is None:
        return {}
    return {"dim": width} if kind == "vit" else {"width": width, "groups": gcd(GROUPS, width)}
