"""The contract of a server step: the optimizer that applies a joined delta to the global weights.

A step is a pure function ``(weights, delta, state, config) -> (weights, state)``; *state* is a
mapping of "<what>.<weight's name>" -> tensor, empty before the first round, and is saved with every
checkpoint. Each weight moves by itself: a step of all is the steps of each, which is how the rounds
take it, so that no whole model lies beside another one.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

import confrere_server.steps
from confrere_common.family import Family
from confrere_common.weights import Weights

StepState: TypeAlias = Mapping[str, Tensor]
Step: TypeAlias = Callable[[Weights, Weights, StepState, Any], tuple[Weights, StepState]]

STEPS: Family[Step] = Family("server step", confrere_server.steps)


def by_weight(state: StepState) -> dict[str, dict[str, Tensor]]:
    """Return weight's name -> the part of *state* that is about it."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        found.setdefault(key.partition(".")[2], {})[key] = tensor
    return found
