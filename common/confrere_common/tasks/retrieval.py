"""Retrieval: features in which images of a class lie near each other, for an index to search.

Each image is drawn to a learned place of its class by a softmax over cosines
(https://arxiv.org/abs/1811.12649): pairs of images, as triplets compare, would tie patients
together. A class that a site lacks leaves its softmax: else its images would drive the place of a
class away that they know nothing of.

Shapes: B images, F features, G features of an index, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.method import Augment
from confrere_common.parts.lacking import present, restricted
from confrere_common.section import section
from confrere_common.task import FineTask


class Retrieval(FineTask):
    """Its answers are unit vectors; near ones are alike."""

    wants = ("label", "prior")
    compares = True

    @section
    class Config:
        """Defaults are those of the paper but for the width."""

        out: Annotated[int, Field(ge=2)] = 64
        """Features of the index."""

        temperature: Annotated[float, Field(gt=0)] = 0.05
        """How sharply classes are parted: the lower, the sharper."""

    def __init__(self, config: Config, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__(encoder, classes)
        if len(classes) < 2:
            raise ConfigError([f"finetune.classes names {len(classes)}: two can be told apart."])
        self.config = config
        layers = nn.LayerNorm(encoder.width), nn.Linear(encoder.width, config.out, bias=False)
        places = nn.Linear(config.out, len(classes), bias=False)
        self.head = nn.ModuleDict({"turn": nn.Sequential(*layers), "places": places})

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return augmented images, their classes, and the logarithm of the site's frequencies."""
        labels_B, prior_BK = known
        return augment(images_BCZYX, generator), labels_B, prior_BK

    def losses(self, *views: Tensor) -> Tensor:
        """Return how far each image is from its class's place, beside the others'; 0 unlabelled."""
        images_BCZYX, labels_B, prior_BK = views
        places: nn.Linear = self.head["places"]  # type: ignore[assignment]
        found_BG = self._found(images_BCZYX)
        cosines_BK = found_BG @ normalize(places.weight, dim=1).to(found_BG.dtype).T
        logits_BK = restricted(cosines_BK / self.config.temperature, present(prior_BK))
        logs_BK = log_softmax(logits_BK, dim=1)
        log_B = logs_BK.gather(1, labels_B.clamp(min=0)[:, None])[:, 0]
        return -log_B * (labels_B >= 0).to(log_B.dtype)

    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return features for an index, (B, G), of length 1."""
        return self._found(images_BCZYX).float()

    def _found(self, images_BCZYX: Tensor) -> Tensor:
        turned_BG = self.head["turn"](self.encoder(images_BCZYX))
        turned_BG = turned_BG.to(torch.promote_types(turned_BG.dtype, torch.float32))
        return normalize(turned_BG, dim=1)
