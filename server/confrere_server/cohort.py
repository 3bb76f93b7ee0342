"""Which sites a round asks, and how many of them must answer."""

import hashlib
import math
from collections.abc import Sequence

from confrere_common.errors import RoundError

_SLACK = 1e-9
"""0.07 * 100 is 7.000000000000001 in floating point, but 7 sites are meant."""


def draw_cohort(sites: Sequence[str], share: float, round: int, seed: int) -> tuple[str, ...]:
    """Draw *share* of *sites*, rounded up, without replacement; sorted by name.

    Every subset of that size is equally likely. The draw depends on the names, *round* and *seed*
    alone: not on the order of *sites*, nor on Python's version. RoundError if there is no site.
    """
    if not sites:
        raise RoundError("no site takes part, so no round can be held; let at least one join.")
    size = min(len(sites), max(1, math.ceil(share * len(sites) - _SLACK)))
    shuffled = sorted(sites, key=lambda site: _lot(site, round, seed))
    return tuple(sorted(shuffled[:size]))


def needed(asked: int, quorum: float) -> int:
    """Return how many of *asked* sites must answer validly: the share *quorum*, rounded up."""
    return max(1, math.ceil(quorum * asked - _SLACK))


def _lot(site: str, round: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {round} {site}".encode()).digest()
