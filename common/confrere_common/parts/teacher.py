"""Teachers: moving averages of what is trained, which follow it and never leave their site."""

import copy
import itertools
import math

import torch
from torch import Tensor, nn


def teacher_of(*students: nn.Module) -> nn.Sequential:
    """Return a copy of the students, applied in turn, that shares no memory and is not trained."""
    return copy.deepcopy(nn.Sequential(*students)).requires_grad_(False)


def momentum(first: float, progress: float) -> float:
    """Return how much of itself a teacher keeps: *first* at the start, 1 at the end, by a cosine.

    The schedule of BYOL (https://arxiv.org/abs/2006.07733), MoCo v3 and DINO.
    """
    return 1 - (1 - first) * (math.cos(math.pi * progress) + 1) / 2


@torch.no_grad()
def follow(teacher: nn.Module, *students: nn.Module, kept: float) -> None:
    """Move the teacher towards the students, keeping so much of itself."""
    torch._foreach_lerp_(_data(teacher), _data(*students), 1 - kept)


@torch.no_grad()
def become(teacher: nn.Module, *students: nn.Module) -> None:
    """Make the teacher an exact copy of the students."""
    torch._foreach_copy_(_data(teacher), _data(*students))


def _data(*modules: nn.Module) -> list[Tensor]:
    found = itertools.chain.from_iterable(module.parameters() for module in modules)
    return [parameter.detach() for parameter in found]
