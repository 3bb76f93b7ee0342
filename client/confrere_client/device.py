"""Where the network runs, and in which arithmetic."""

from contextlib import AbstractContextManager, nullcontext

import torch

from confrere_common.config import Train
from confrere_common.errors import ConfigError


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
