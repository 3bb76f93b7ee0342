"""The mean without the extremes of every coordinate: bears some bad sites. https://arxiv.org/abs/1803.01498."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from confrere_common.exchange import Update
from confrere_common.section import section
from confrere_common.weights import Weights
from confrere_server.rule import rule
from confrere_server.spill import mean_of_middle


@section
class Config:
    """With 10 sites, 0.1 bears one that answers anything."""

    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of the answers cut at each end, rounded down; below one answer it cuts none."""


@rule(sum_only=False)
def trimmed_mean(updates: Iterable[Update], config: Config) -> Weights:
    """Return each coordinate's mean without its lowest and highest; all sites weigh the same.

    It holds about two models in memory and every update on disk (see ``spill``).
    """
    return mean_of_middle(updates, lambda answers: _cut(answers, config.trim))


def _cut(answers: int, trim: float) -> int:
    # 0.29 * 100 is 28.999999999999996, and at least one answer must stay.
    return min(int(answers * trim + 1e-9), (answers - 1) // 2)
