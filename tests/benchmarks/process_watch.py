"""What processes take, read from outside: memory, processor seconds, bytes over the loopback."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICK_S = 0.2
PER_S = os.sysconf("SC_CLK_TCK")

Roles = Callable[[int, str], str]
"""Process id and command line -> what the process is; '' for one that does not count."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at all processes."""

    at: float
    """Unix time."""

    cpu_s: Mapping[str, float]
    """Role -> processor seconds so far, of those that have ended as well."""

    wire_bytes: int
    """Bytes that the loopback has carried; all there are when nothing else uses it."""


@dataclass(kw_only=True)
class Watch:
    """Looks at the descendants of this process while it is open."""

    role_of: Roles
    samples: list[Sample] = field(default_factory=list)
    peak_mib: dict[int, float] = field(default_factory=dict)
    """Process id -> the most memory it held (VmHWM)."""

    roles: dict[int, str] = field(default_factory=dict)
    _spent: dict[int, float] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> Sample:
        """Take a sample now."""
        for pid in descendants(os.getpid()):
            role = self.roles.get(pid) or self.role_of(pid, command_line(pid))
            if role:
                self.roles[pid] = role
                self._note(pid)
        spent: dict[str, float] = {}
        for pid, seconds in self._spent.items():
            role = self.roles[pid]
            spent[role] = spent.get(role, 0.0) + seconds
        sample = Sample(at=time.time(), cpu_s=spent, wire_bytes=loopback_bytes())
        self.samples.append(sample)
        return sample

    def between(self, start: float, end: float) -> tuple[dict[str, float], int]:
        """Return role -> processor seconds, and bytes, that passed from *start* to *end*."""
        first, last = self._at(start), self._at(end)
        spent = {role: s - first.cpu_s.get(role, 0.0) for role, s in last.cpu_s.items()}
        return spent, last.wire_bytes - first.wire_bytes

    def peaks(self) -> dict[str, float]:
        """Return role -> the most memory that one process of it held, in MiB."""
        found: dict[str, float] = {}
        for pid, peak in self.peak_mib.items():
            found[self.roles[pid]] = max(peak, found.get(self.roles[pid], 0.0))
        return found

    def _at(self, when: float) -> Sample:
        return min(self.samples, key=lambda sample: abs(sample.at - when))

    def _note(self, pid: int) -> None:
        peak, seconds = status_mib(pid, "VmHWM"), cpu_seconds(pid)
        if peak is not None:
            self.peak_mib[pid] = max(peak, self.peak_mib.get(pid, 0.0))
        if seconds is not None:
            self._spent[pid] = seconds

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            self.look()


def descendants(root: int) -> Iterator[int]:
    """Yield the processes that *root* started, and those that they started."""
    for path in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            children = [int(pid) for pid in path.read_text().split()]
        except OSError:
            continue
        for pid in children:
            yield pid
            yield from descendants(pid)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def status_mib(pid: int, key: str) -> float | None:
    """Return VmRSS or VmHWM of a process; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{key}:")]
    return int(found[0]) / 1024 if found else None


def cpu_seconds(pid: int) -> float | None:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / PER_S


def forget_peak(pid: int) -> float:
    """Begin the high-water mark of a process anew; return its memory now in MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return status_mib(pid, "VmRSS") or 0.0


def loopback_bytes() -> int:
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    return 0
