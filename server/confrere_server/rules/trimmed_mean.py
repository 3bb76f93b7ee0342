"""The mean without the extremes of every coordinate: bears some bad sites. https://arxiv.org/abs/1803.01498."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from confrere_common.exchange import Update
from confrere_common.section import section
from confrere_common.weights import Weights
from confrere_server.rule import rule
from confrere_server.spill import mean_of_middle

ENOUGH = 5
"""Answers of which one at each end can be spared."""


@section
class Config:
    """From 5 answers on it bears one that is anything."""

    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the answers cut at each end, rounded down; of five answers and more at least one is
    cut, of fewer none below one. 0 cuts none."""


@rule(sum_only=False)
def trimmed_mean(updates: Iterable[Update], config: Config) -> Weights:
    """Return each coordinate's mean without its lowest and highest; all sites weigh the same.

    It holds about two models in memory and every update on disk (see ``spill``).
    """
    return mean_of_middle(updates, lambda answers: _cut(answers, config.trim))


def _cut(answers: int, trim: float) -> int:
    # 0.29 * 100 is 28.999999999999996, and at least one answer must stay.
    cut = int(answers * trim + 1e-9)
    if trim and answers >= ENOUGH:  # else who asks for it at five sites would get a plain mean
        cut = max(cut, 1)
    return min(cut, (answers - 1) // 2)
