"""The contract of a server step: the optimizer that applies a joined delta to the global weights.

A step is a pure function ``(weights, delta, state, config) -> (weights, state)``; *state* is a
mapping of name -> tensor, empty before the first round, and is saved with every checkpoint.
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
