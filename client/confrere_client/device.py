"""Where the network runs, in which arithmetic, and on how much at once.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D), F features.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from confrere_common.config import Train
from confrere_common.encoder import Encoder
from confrere_common.errors import ConfigError

VOXELS = 1 << 23
"""So many are seen at once without gradients: nine volumes of 96, all pictures of a batch."""


def choose_device(wanted: str) -> torch.device:
    """Return the device that a run names; ConfigError when this machine has no such device."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")  # no place to compute, as others that torch knows
    if device.type not in ("cpu", "cuda"):
        raise ConfigError([f"train.device is '{wanted}': use auto, cpu, cuda or cuda:N."])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError([f"train.device is '{wanted}'; {found} CUDA devices are visible here."])
    return device


def prepare(device: torch.device) -> None:
    """Let float32 matrix products on a GPU use TF32: eight times the speed, ample for training."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def arithmetic(train: Train, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast that a run asks for; bfloat16 on a CPU is slower, so never by default."""
    wanted = train.precision
    if wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def at_once(size: Sequence[int]) -> int:
    """Return how many images of *size* ([Z] Y X) an encoder is given at once."""
    return max(1, VOXELS // math.prod(size))


def in_parts(encoder: Encoder, images_BCZYX: Tensor) -> Tensor:
    """Return features of normalised images, (B, F) in float32, however large the images are."""
    parts = torch.split(images_BCZYX, at_once(encoder.size))
    return torch.cat([encoder(part).float() for part in parts])
