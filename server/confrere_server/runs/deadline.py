"""How long a round waits for its sites, learned from the rounds before."""

from collections.abc import Sequence
from statistics import median

LEAST_S = 60.0
"""No deadline is shorter: a daemon that was restarted needs that long to be back at work."""

PATIENCE = 3.0
"""How many times the usual a round may take."""

MEMORY = 7
"""Rounds that count as usual."""


def deadline_s(paces_s: Sequence[float], ceiling_s: float) -> float:
    """Return the seconds a round waits: three times the median of the last paces, within limits.

    A pace is the time to the last valid answer and not to the deadline, so a site that hangs does
    not make the next deadline longer. Without history the ceiling holds.
    """
    if not paces_s:
        return ceiling_s
    return min(ceiling_s, max(LEAST_S, PATIENCE * median(paces_s[-MEMORY:])))
