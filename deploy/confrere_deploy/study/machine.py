"""The class of machine that a study ran on; never its name."""

import os
import platform
from pathlib import Path

import torch

from confrere_client.device import choose_device
from confrere_deploy.report import schema


def machine(wanted_device: str) -> schema.Machine:
    """Return processor, cores, accelerator and versions."""
    device = choose_device(wanted_device)
    return schema.Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
