"""Anomaly: what normal images lead one to expect, learned from these alone; what differs is odd.

The head foretells the encoder's finer maps from its coarsest (``methods/heteroae.py``).

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError, unknown
from confrere_common.method import Augment
from confrere_common.methods.heteroae import Heteroae
from confrere_common.section import section
from confrere_common.task import UNKNOWN_CLASSES, FineTask


class Anomaly(FineTask):
    """Only images of the normal class teach; the others serve to judge."""

    wants = ("label",)
    tells_apart = False
    beside = ("head.narrow", "head.decoder")
    compares = True

    @section
    class Config:
        """Beside what the head foretells, sites may score by distance to their normal images."""

        normal: Annotated[str, Field(min_length=1)]
        """The class of images that are normal."""

        score: Literal["foretold", "unusual", "knn", "mahalanobis"] = "foretold"
        """What leads: how badly an image is foretold (its worst place); how unlike normal training
        images it is foretold, worse or better (what is smoother than normal is foretold better); or
        how far its features lie from theirs, by the nearest five or by their spread."""

        bottleneck: Annotated[int, Field(ge=4)] = 64
        """Channels of the coarsest map that the head sees: with all of them it may copy."""

    def __init__(self, config: Config, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__(encoder, classes)
        if config.normal not in classes and classes != UNKNOWN_CLASSES:
            raise ConfigError([f"finetune.task.normal: {unknown('class', config.normal, classes)}"])
        self.config = config
        knobs = Heteroae.Config(bottleneck=config.bottleneck)
        foreteller = Heteroae(knobs, encoder)
        self.head = nn.ModuleDict({"narrow": foreteller.narrow, "decoder": foreteller.decoder})
        # In a tuple: as a submodule of its own it would name the encoder a second time.
        self._foreteller = (foreteller,)

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return augmented images, and which of them are normal."""
        there = self.config.normal in self.classes
        normal = self.classes.index(self.config.normal) if there else 0
        return augment(images_BCZYX, generator), known[0] == normal

    def losses(self, *views: Tensor) -> Tensor:
        """Return how badly each image's maps are foretold; 0 where it is not normal."""
        images_BCZYX, normal_B = views
        losses_B = self._foreteller[0].losses(images_BCZYX)
        return losses_B * normal_B.to(losses_B.dtype)

    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return how badly each place is foretold, (B, 1, [Z] Y X)."""
        return self._foreteller[0].anomaly_maps(images_BCZYX).float()
