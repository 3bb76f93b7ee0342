"""The median of every coordinate: bears bad sites up to one half. https://arxiv.org/abs/1803.01498."""

from collections.abc import Iterable

from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_common.weights import Weights
from confrere_server.rule import rule
from confrere_server.spill import mean_of_middle


@rule(sum_only=False)
def median(updates: Iterable[Update], config: NoKnobs) -> Weights:  # noqa: ARG001
    """Return each coordinate's median; of an even number, the mean of the two in the middle.

    All sites weigh the same. It holds about two models in memory and every update on disk (see
    ``spill``).
    """
    return mean_of_middle(updates, lambda answers: (answers - 1) // 2)
