"""AdamW over a model's own names, and its moments as plain named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from confrere_common.config import Train


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """Return AdamW, fused; biases and normalisation gains do not decay."""
    named = _trained(model)
    decayed = [p for p in named.values() if p.ndim > 1]
    kept = [p for p in named.values() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=train.lr, betas=train.betas, fused=True
    )


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state on the CPU, named ``<parameter>.<slot>``."""
    return {
        f"{name}.{slot}": value.detach().to("cpu", copy=True)
        for name, parameter in _trained(model).items()
        for slot, value in optimizer.state[parameter].items()
    }


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Put saved moments back; parameters without any start anew."""
    named = _trained(model) if state else {}
    for key, value in state.items():
        name, _, slot = key.rpartition(".")
        parameter = named[name]
        optimizer.state[parameter][slot] = value.to(parameter.device, copy=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
