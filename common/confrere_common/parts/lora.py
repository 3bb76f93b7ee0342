"""Low-rank additions to a transformer's attention, and how they are folded in for good.

Source: https://arxiv.org/abs/2106.09685, without its factor alpha / rank, which AdamW's rate is as
good as. The additions start at 0, so that the network starts as it was.

Shapes: F features in, G features out, R rank.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError

ADAPTED = ("query_key_value", "attended")
"""Linear layers of an attention, by the names that our transformers give them."""

DOWN, UP = "lora_down", "lora_up"


class LowRank(nn.Linear):
    """A linear layer plus what a narrow detour adds; weight and bias keep their names."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_down = nn.Parameter(torch.randn(rank, self.in_features) / self.in_features**0.5)
        self.lora_up = nn.Parameter(torch.zeros(self.out_features, rank))

    def forward(self, features: Tensor) -> Tensor:
        """Return what the layer gives, and the detour's part."""
        plain: Tensor = super().forward(features)
        return plain + features @ self.lora_down.T @ self.lora_up.T


def adapt(encoder: Encoder, rank: int) -> None:
    """Put low-rank additions on every attention; ConfigError where the encoder has none."""
    found = [
        (module, name, layer)
        for module in encoder.modules()
        for name, layer in module.named_children()
        if name in ADAPTED and isinstance(layer, nn.Linear)
    ]
    if not found:
        raise ConfigError(
            [
                "finetune.mode 'lora' adds to attention, and this encoder has none: choose encoder "
                "vit or swin, or mode frozen, last or full."
            ]
        )
    for module, name, layer in found:
        setattr(module, name, LowRank(layer, rank))


def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with all additions added for good, under the names of the plain layers."""
    ends = tuple(f".{end}" for end in (DOWN, UP))
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(ends)}
    for name, up_GR in weights.items():
        if name.endswith(f".{UP}"):
            layer = name.removesuffix(f".{UP}")
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + up_GR @ weights[f"{layer}.{DOWN}"]
    return plain
