"""AdamW over a model's own names, and its moments as plain named tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from confrere_common.config import Train
from confrere_common.method import Method


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """Return AdamW, fused; biases and normalisation gains do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _trained(model).items():
        decay = train.weight_decay if parameter.ndim > 1 else 0.0
        pace = model.pace(name) if isinstance(model, Method) else 1.0
        groups.setdefault((pace, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": own, "weight_decay": decay, "pace": pace}
            for (pace, decay), own in groups.items()
        ],
        lr=train.lr,
        betas=train.betas,
        fused=True,
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
    """Put saved moments back; parameters without any start anew, those at rest have none."""
    named = _trained(model) if state else {}
    for key, value in state.items():
        name, _, slot = key.rpartition(".")
        if name not in named:
            continue
        parameter = named[name]
        optimizer.state[parameter][slot] = value.to(parameter.device, copy=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, each at its pace."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("pace", 1.0)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Shorten all gradients together to a Euclidean norm of *most*, where they are longer.

    To the bit what ``torch.nn.utils.clip_grad_norm_`` does of float32 on one device, which is all
    that is trained here: it first sorts them by both, in two thirds more time for a small model.
    """
    gradients = [one.grad for one in parameters if one.grad is not None]
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
