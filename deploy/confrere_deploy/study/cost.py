"""What a study takes in time, processor and memory: all its sessions, all its processes.

A session notes every few seconds in the study's folder what it took so far. One that is killed is
thus counted, but for its last seconds. Workers are found by Linux's /proc, on this machine only.
"""

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confrere_common.storage import atomic_write

NOTE = "cost.json"
EVERY_S = 5.0
"""Time between two notes."""

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one session took, or several."""

    wall_s: float
    cpu_s: float
    peak_rss_mib: float


class Clock:
    """Measures a session from here on, and adds those before it; with ``with`` it takes notes."""

    def __init__(self, *, workers: bool = False) -> None:
        self.doubts: tuple[str, ...] = ()
        """What the figures miss, a sentence each."""

        self.earlier: tuple[Spent, ...] = ()
        self._wall, self._cpu = time.perf_counter(), _own_cpu_s()
        self._children = _children_cpu_s()
        self._workers = Workers()
        self._note: Path | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        if workers and not (PROC / "self/task").exists():
            self.doubts += ("The cost leaves out the workers: only Linux tells what they take.",)

    def keep(self, folder: Path, *, resumed: bool) -> None:
        """Read what earlier sessions took, and note in *folder* what this one takes."""
        self._note = folder / NOTE
        try:
            plain = json.loads(self._note.read_bytes())
            self.earlier = tuple(Spent(**session) for session in plain["sessions"])
        except (OSError, ValueError, KeyError, TypeError):
            if resumed:
                self.doubts += (f"The cost is of the last session alone: {NOTE} cannot be read.",)
        self.note()

    def __enter__(self) -> Self:
        """Go on taking notes."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the last note."""
        self._end.set()
        self._thread.join()
        self.note()

    def look(self) -> None:
        """Count what the workers took until now: they may be gone before the next note."""
        self._workers.look()

    def note(self) -> None:
        """Write down what the sessions took; a full disk is for those to tell who save a round."""
        self.look()
        if self._note is not None:
            sessions = [asdict(session) for session in (*self.earlier, self.session)]
            with contextlib.suppress(OSError):
                atomic_write(self._note, json.dumps({"sessions": sessions}, indent=2).encode())

    @property
    def session(self) -> Spent:
        """Return what this session took so far."""
        return Spent(
            wall_s=time.perf_counter() - self._wall,
            cpu_s=_own_cpu_s() - self._cpu + self._workers_cpu_s,
            peak_rss_mib=_own_peak_mib() + self._workers.peak_mib,
        )

    @property
    def total(self) -> Spent:
        """Return what all sessions took: sums of times, the largest memory."""
        every = (*self.earlier, self.session)
        return Spent(
            wall_s=sum(session.wall_s for session in every),
            cpu_s=sum(session.cpu_s for session in every),
            peak_rss_mib=max(session.peak_rss_mib for session in every),
        )

    @property
    def _workers_cpu_s(self) -> float:
        # Two counts, each incomplete: who was waited for, and who was seen.
        return max(_children_cpu_s() - self._children, self._workers.cpu_s)

    def _go_on(self) -> None:
        while not self._end.wait(EVERY_S):
            self.note()


class Workers:
    """The processes below this one, however deep; also those that nobody waits for, as Ray's."""

    def __init__(self) -> None:
        self._cpu_s: dict[tuple[int, str], float] = {}
        self._lock = threading.Lock()
        self.peak_mib = 0.0

    @property
    def cpu_s(self) -> float:
        """Return the processor seconds of all that were ever seen, as last seen."""
        return sum(self._cpu_s.values())

    def look(self) -> None:
        """See who is there."""
        with self._lock:
            held = 0.0
            for pid in _below(os.getpid()):
                # One that ends meanwhile is passed over.
                with contextlib.suppress(OSError, ValueError, IndexError):
                    born, cpu_s, rss_mib = _read(pid)
                    self._cpu_s[pid, born] = cpu_s
                    held += rss_mib
            self.peak_mib = max(self.peak_mib, held)


def _below(pid: int) -> Iterator[int]:
    """Yield every process that *pid* started, and that they started."""
    for task in (PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield int(child)
                yield from _below(int(child))


def _read(pid: int) -> tuple[str, float, float]:
    """Return when a process began, its processor seconds and its memory in MiB; see proc(5)."""
    # The name before ')' may hold blanks; what follows is the third field of the page and on.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return fields[19], cpu_s, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _own_cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _children_cpu_s() -> float:
    """Return the processor seconds of children that ended and were waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _own_peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
