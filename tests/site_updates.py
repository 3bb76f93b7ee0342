"""Updates of honest sites, and the gate of the server that they come to."""

from typing import Any

import torch

from confrere_common.exchange import Update
from confrere_common.limits import Limits
from confrere_server.admission import Gate, Repute

HONEST = 8
TEMPLATE = {"w": torch.zeros(6, 5), "b": torch.zeros(7)}
KNOWN = Repute(lengths=(0.06, 0.07, 0.05))
GATE = Gate(
    template=TEMPLATE,
    limits=Limits(clip_ratio=2.0, norm_ratio=10.0),
    repute=KNOWN,
    enrolled={"bad": 100},
)


def update(site: str, seed: int = 0, images: int = 100, **changes: Any) -> Update:
    generator = torch.Generator().manual_seed(seed)
    delta = {
        name: 0.01 * torch.randn(tensor.shape, generator=generator) + 0.01
        for name, tensor in TEMPLATE.items()
    }
    plain = {"site": site, "round": 4, "delta": delta, "images": images, "metrics": {"loss": 1.0}}
    return Update(**{**plain, **changes})


def honest() -> list[Update]:
    return [update(f"site-{seed}", seed, images=90 + seed) for seed in range(HONEST)]
