"""The contract of an aggregation rule: a stream of updates in, one joined delta out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import confrere_server.rules
from confrere_common.exchange import Update
from confrere_common.family import Family
from confrere_common.weights import Weights

Join = Callable[..., Weights]


@dataclass(frozen=True)
class Rule:
    """A function ``(updates, config) -> joined delta`` with what it promises."""

    join: Join
    sum_only: bool
    """Whether it needs nothing but a weighted sum, all that secure aggregation reveals."""

    def __call__(self, updates: Iterable[Update], config: Any) -> Weights:
        """Join *updates*, reading the stream once; RoundError if it is empty.

        The updates are handed over: a rule may write into their tensors and give those back as its
        result. So whoever makes the stream keeps no tensor of an update, and its memory is
        writable and its own.
        """
        return self.join(updates, config)


def rule(*, sum_only: bool) -> Callable[[Join], Rule]:
    """Mark a function as an aggregation rule."""
    return lambda join: Rule(join, sum_only)


RULES: Family[Rule] = Family("rule", confrere_server.rules)
