"""Whose turn it is: a run that waits for its sites gives way to those behind it in the queue.

A turn ends when the run does, or when for a while it has gathered, or held rounds, in vain and
another run is open.
It is taken up again in its turn; what sites have said of the run meanwhile is not lost.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from confrere_server.runs.queue import Folder, next_run

FIRST_WAIT_S = 20.0
"""How long a run that has not begun waits for its sites while others are behind it."""

LATER_WAIT_S = 300.0
"""How long one that has begun waits: a site that is started anew must not cost it its turn."""


class GaveWay(Exception):  # noqa: N818  (nobody erred)
    """The run waits for its sites, and another has its turn."""


@dataclass(kw_only=True)
class Turn:
    """One run's patience, spent while it gathers, and on rounds without a result."""

    folder: Folder
    others: Callable[[], bool]
    """Whether another run is open."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _since: float | None = None
    _paces_s: tuple[float, ...] = ()
    """How long rounds with a result took, as known then: another one changes it."""

    def begin(self) -> None:
        """Begin to wait anew."""
        self._since = None

    def pause(self, seconds: float) -> None:
        """Sleep; GaveWay when the run got nowhere for too long and keeps others from theirs."""
        self.sleep(seconds)
        standing = self.folder.standing
        if standing.state != "gathering" and not standing.why:
            self._since = None
            return
        now = self.clock()
        if self._since is None or standing.paces_s != self._paces_s:  # a round had a result
            self._since, self._paces_s = now, standing.paces_s
        patience = LATER_WAIT_S if standing.round else FIRST_WAIT_S
        if now - self._since >= patience and self.others():
            raise GaveWay


@dataclass(kw_only=True)
class Turns:
    """The queue, each open run in its turn: the oldest first, then those that it gave way to."""

    runs: Path
    _passed: set[str] = field(default_factory=set)

    def next(self) -> Folder | None:
        """Return the run whose turn it is; None when none is open."""
        found = next_run(self.runs, besides=self._passed)
        if found is None and self._passed:
            self._passed.clear()  # all that are open have had their turn
            found = next_run(self.runs)
        return found

    def passed(self, folder: Folder) -> None:
        """Note that a run gave way."""
        self._passed.add(folder.path.name)

    def ended(self) -> None:
        """Note that a run is over: the oldest is looked at first again."""
        self._passed.clear()

    def others(self, folder: Folder) -> bool:
        """Return whether a run beside *folder* is open."""
        return next_run(self.runs, besides={folder.path.name}) is not None
