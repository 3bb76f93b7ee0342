"""Classification: one class of several, several findings at once, or classes in an order.

Rare classes: sampling is the run's (``finetune.sampling``); here are focal loss
(https://arxiv.org/abs/1708.02002) and logit adjustment by the site's own frequencies
(https://arxiv.org/abs/2007.07314), which over sites is FedLC (https://arxiv.org/abs/2209.00189).

A class that a site lacks leaves its softmax, a finding its sum. Of classes in an order none has a
logit of its own: there a threshold is left out on one side of which the site has nobody, so classes
beyond all that it has. One between others stays: both its thresholds have images on either side.

Shapes: B images, F features, K classes, T = K - 1 thresholds.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError
from confrere_common.method import Augment
from confrere_common.parts.lacking import ABSENT, present
from confrere_common.section import section
from confrere_common.task import FineTask


class Classification(FineTask):
    """A linear layer on normalised features; its answers are probabilities."""

    @section
    class Config:
        """Defaults are cross-entropy over exclusive classes."""

        kind: Literal["multiclass", "multilabel", "ordinal"] = "multiclass"
        """Exclusive classes, findings that may occur together (a label names them with '|' between,
        or 'none'), or classes in the order of finetune.classes."""

        focal: Annotated[float, Field(ge=0)] = 0.0
        """Exponent of the focal loss: the higher, the less counts what is known well; 0 is none."""

        adjust: Annotated[float, Field(ge=0)] = 0.0
        """How strongly logits are adjusted by the logarithm of the site's class frequencies (1 in
        the paper; multiclass only); 0 is not at all."""

        @field_validator("adjust")
        @classmethod
        def _of_exclusive_classes(cls, adjust: float, others: ValidationInfo) -> float:
            if adjust and others.data.get("kind", "multiclass") != "multiclass":
                raise ValueError("logits are adjusted where kind is multiclass only; leave it out")
            return adjust

    def __init__(self, config: Config, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__(encoder, classes)
        if len(classes) < 2 and config.kind != "multilabel":
            raise ConfigError([f"finetune.classes names {len(classes)}: two make a choice."])
        self.config = config
        self.wants = ("findings" if config.kind == "multilabel" else "label", "prior")
        make = _Thresholds if config.kind == "ordinal" else _linear
        self.head = nn.Sequential(nn.LayerNorm(encoder.width), make(encoder.width, len(classes)))

    def informed_views(
        self,
        images_BCZYX: Tensor,
        known: Sequence[Tensor],
        augment: Augment,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """Return augmented images, their labels, and the logarithm of the site's frequencies."""
        truth_B, prior_BK = known
        return augment(images_BCZYX, generator), truth_B, prior_BK

    def losses(self, *views: Tensor) -> Tensor:
        """Return the loss of each image; 0 where its label is unknown."""
        images_BCZYX, truth, prior_BK = views
        logits = self.head(self.encoder(images_BCZYX))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        prior_BK = prior_BK.to(logits.dtype)
        match self.config.kind:
            case "multiclass":
                return self._exclusive(logits, truth, prior_BK)
            case "multilabel":
                weights_BK = truth.isfinite() & present(prior_BK)
                return self._binary(logits, truth.nan_to_num(0.0), weights_BK)
        steps_T = torch.arange(logits.shape[1], device=truth.device)
        there_BK = present(prior_BK)
        known_BT = (truth >= 0)[:, None] & there_BK[:, 1:] & there_BK[:, :-1]
        return self._binary(logits, truth[:, None] > steps_T, known_BT)

    def predict(self, images_BCZYX: Tensor) -> Tensor:
        """Return probabilities of the classes (B, K); in a row they sum to 1 unless multilabel."""
        logits = self.head(self.encoder(images_BCZYX)).float()
        match self.config.kind:
            case "multiclass":
                return torch.softmax(logits, dim=1)
            case "multilabel":
                return torch.sigmoid(logits)
        above_BT = torch.sigmoid(logits)
        ones_B1 = torch.ones_like(above_BT[:, :1])
        steps = torch.cat([ones_B1, above_BT, torch.zeros_like(ones_B1)], dim=1)
        found_BK = (steps[:, :-1] - steps[:, 1:]).clamp(min=0)
        return found_BK / found_BK.sum(1, keepdim=True)

    def _exclusive(self, logits_BK: Tensor, truth_B: Tensor, prior_BK: Tensor) -> Tensor:
        shift_BK = torch.where(present(prior_BK), self.config.adjust * prior_BK, ABSENT)
        logs_BK = log_softmax(logits_BK + shift_BK, dim=1)
        log_B = logs_BK.gather(1, truth_B.clamp(min=0)[:, None])[:, 0]
        return self._focused(-log_B) * (truth_B >= 0).to(log_B.dtype)

    def _binary(self, logits_BK: Tensor, truth_BK: Tensor, known_BK: Tensor) -> Tensor:
        truth_BK, weights_BK = truth_BK.to(logits_BK.dtype), known_BK.to(logits_BK.dtype)
        each_BK = binary_cross_entropy_with_logits(logits_BK, truth_BK, reduction="none")
        count_B = weights_BK.sum(1).clamp(min=1)
        return (self._focused(each_BK) * weights_BK).sum(1) / count_B

    def _focused(self, entropy: Tensor) -> Tensor:
        if not self.config.focal:
            return entropy
        # A certain answer has entropy 0; the root of (1 - p) would have no gradient just there.
        return (1 - torch.exp(-entropy)).clamp(min=1e-6) ** self.config.focal * entropy


class _Thresholds(nn.Module):
    """One score and a threshold between each two classes, as CORAL has it.

    Source: https://arxiv.org/abs/1901.07884: with one score for all thresholds, answers keep order.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.score = _linear(width, 1)
        self.thresholds = nn.Linear(1, classes - 1)
        nn.init.ones_(self.thresholds.weight)
        self.thresholds.weight.requires_grad_(False)
        with torch.no_grad():
            self.thresholds.bias.copy_(torch.linspace(1, -1, classes - 1))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the logit of lying above each threshold, (B, T)."""
        logits_BT: Tensor = self.thresholds(self.score(features_BF))
        return logits_BT


def _linear(width: int, outs: int) -> nn.Linear:
    layer = nn.Linear(width, outs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
