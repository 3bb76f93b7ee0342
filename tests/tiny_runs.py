"""Runs small enough to train in milliseconds, and images of noise to train them on.

Shapes: B images, C channels, Y X voxels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_common.config import Run
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.method import METHODS

SIDE = 16

ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "resnet": {"name": "resnet", "width": 8, "groups": 4, "stem": "large"},
    "swin": {"name": "swin", "dim": 8, "depths": [2, 2], "window": 3},
    "vit": {"name": "vit", "dim": 24, "depth": 2, "heads": 2, "patch": 8},
}

KNOBS: Mapping[str, Mapping[str, Any]] = {
    "autoencoder": {"width": 4},
    "barlow": {"projector": 32},
    "byol": {"hidden": 32, "out": 16},
    "cass": {"hidden": 32, "out": 16, "partner_width": 16},
    "dino": {"hidden": 32, "bottleneck": 16, "prototypes": 24, "local_crops": 1},
    "heteroae": {"bottleneck": 8},
    "ibot": {"hidden": 32, "bottleneck": 16, "prototypes": 24},
    "ijepa": {"predictor_dim": 24, "predictor_heads": 2, "predictor_depth": 1},
    "joint": {"width": 4},
    "lejepa": {"hidden": 32, "out": 16, "slices": 32, "local_views": 1},
    "mae": {"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1},
    "maxtree": {"width": 4, "levels": 8},
    "medsass": {"width": 4},
    "mocov3": {"hidden": 32, "out": 16},
    "resection": {"width": 4},
    "rotation": {"hidden": 32},
    "simclr": {"hidden": 32, "out": 16},
    "simmim": {"head": 16, "block": 8},
    "simsiam": {"hidden": 32, "out": 16, "bottleneck": 8},
    "smit": {"hidden": 32, "out": 16, "block": 8},
    "smit_centred": {"hidden": 32, "bottleneck": 16, "prototypes": 24, "block": 8},
    "spark": {"width": 4},
    "swinunetr": {"out": 16, "width": 4, "block": 8},
    "vicreg": {"expander": 32},
    "voco": {"grid": 2, "hidden": 32, "out": 16},
    "weak": {"classes": 2},
}
"""Knobs that make a method quick; one that is not named runs with its defaults."""


def tiny_run(method: str = "simclr", **sections: Mapping[str, Any]) -> Run:
    """Return a run of two rounds of two steps; *sections* change its values."""
    kinds = METHODS.member(method).encoder_kinds or ("resnet",)
    plain: dict[str, Any] = {
        "name": "tiny",
        "data": {"source": "phantom", "image_px": SIDE, "channels": 1, "dims": 2},
        "encoder": ENCODERS[kinds[0]],
        "method": {"name": method, **KNOBS.get(method, {})},
        "train": {"batch": 4, "steps_per_round": 2, "device": "cpu"},
        "federation": {"rounds": 2},
    }
    for name, changed in sections.items():
        plain[name] = changed if "name" in changed else {**plain.get(name, {}), **changed}
    return parse_run(plain, COMMON_FAMILIES)


@dataclass(frozen=True)
class Noise:
    """Stored images of noise, which give a batch by position."""

    images_BCYX: Tensor

    def __len__(self) -> int:
        return len(self.images_BCYX)

    def batch(self, positions: NDArray[np.int64]) -> Tensor:
        return self.images_BCYX[torch.from_numpy(positions)]

    def known(self, kind: str, positions: NDArray[np.int64]) -> Tensor:
        assert kind == "label"
        return torch.from_numpy(positions % 2)


def noise(count: int, seed: int = 0) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 1, SIDE, SIDE)
    return Noise(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))


def tuning(task: str = "classification", kind: str = "resnet", **changes: Any) -> Run:
    """Return a run that fine-tunes in two rounds of two steps; *changes* are of its section."""
    knobs = changes.pop("knobs", {})
    plain = {
        "name": "tiny",
        "stage": "finetune",
        "data": {"source": "phantom", "image_px": SIDE, "channels": 1, "dims": 2},
        "encoder": ENCODERS[kind],
        "train": {"batch": 4, "steps_per_round": 2, "device": "cpu"},
        "federation": {"rounds": 2},
        "finetune": {"task": {"name": task, **knobs}, "classes": ["a", "b", "c"], **changes},
    }
    return parse_run(plain, COMMON_FAMILIES)
