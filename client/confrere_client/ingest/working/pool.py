"""Processes that do tasks one by one; one that dies or hangs takes its own task along, no more.

Tasks and answers are JSON over a socket each, several in a message: a message costs more than a
small task. What a worker has begun it counts in memory that both see, so that of all the tasks that
it held the one it died of is known. Nothing is said on the workers' standard error: the libraries
that read files quote names there.
"""

import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection, wait
from typing import Any

WORKER = "confrere_client.ingest.working.hand"

Said = Mapping[str, Any]

LAST = ("done", "skip", "disk")
"""A worker's answer to a task ends with one of these."""

TICK_S = 1.0
COUNTER_BYTES = 8

AHEAD, MANY = 4, 64
"""Tasks that a worker holds, if all are SMALL; MANY, if they are so together."""

SMALL = 16 << 20
LONGEST = 64 << 10
"""Bytes of all tasks that a worker holds while at the first: a socket must take them, or two wait
for each other."""

SOFT = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""Memory of one picture serves the next; else its pages are asked of the kernel for every one."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is asked, and how long it may be silent over it."""

    ask: Said
    limit_s: float
    nbytes: int = 0
    """Memory that it will want; tasks wait for each other rather than to want too much at once."""

    @cached_property
    def text(self) -> str:
        """The question as it is sent."""
        return json.dumps(self.ask)

    @property
    def length(self) -> int:
        """Bytes of the question; it is ASCII."""
        return len(self.text)

    @property
    def small(self) -> bool:
        """Say whether a worker may hold it while at another."""
        return self.nbytes <= SMALL and len(self.ask.get("parts", ())) <= 1


@dataclass(kw_only=True)
class _Hand:
    process: subprocess.Popen[bytes]
    line: Connection
    begun: mmap.mmap
    """How many tasks it has begun; it writes, we read."""

    tasks: deque[Task] = field(default_factory=deque)
    """In the order of their doing. All are at the worker, so that it need not wait for us."""

    fresh: list[str] = field(default_factory=list)
    """Tasks that are yet to be sent."""

    nbytes: int = 0
    """Of its tasks together; and how long these are, as they are sent."""

    length: int = 0
    ended: int = 0
    seen: int = 0
    """Tasks that it had begun when that was last looked at."""

    heard: float = 0.0
    """When it last spoke, or was seen to have begun another task."""

    def late(self) -> bool:
        """Say whether the task that it is at takes longer than that may."""
        begun = self._begun()
        if begun != self.seen:
            self.seen, self.heard = begun, time.monotonic()
        if not self.tasks:
            return False
        limit_s = self.tasks[self.at_work()].limit_s
        if begun <= self.ended:  # it has only just started, and is still loading its readers
            limit_s = max(task.limit_s for task in self.tasks)
        return time.monotonic() - self.heard > limit_s

    def _begun(self) -> int:
        return int.from_bytes(self.begun[:], sys.byteorder)

    def takes(self, task: Task) -> bool:
        """Say whether it may hold *task* beside those that it holds."""
        count, nbytes = len(self.tasks) + 1, self.nbytes + task.nbytes
        few = count <= AHEAD or (count <= MANY and nbytes <= SMALL)
        short = self.length + task.length <= LONGEST
        return few and short and task.small and self.tasks[-1].small

    def give(self, task: Task) -> None:
        if not self.tasks:
            self.heard = time.monotonic()
        self.tasks.append(task)
        self.nbytes += task.nbytes
        self.length += task.length
        self.fresh.append(task.text)

    def finish(self) -> None:
        """Take the first of its tasks from it."""
        task = self.tasks.popleft()
        self.nbytes -= task.nbytes
        self.length -= task.length
        self.ended += 1

    def send(self) -> None:
        """Send what is fresh."""
        if self.fresh:
            with suppress(OSError):  # it is dead, which is found when it is listened to
                self.line.send_bytes(f"[{','.join(self.fresh)}]".encode())
            self.fresh.clear()

    def at_work(self) -> int:
        """Return which of its tasks it was at; those before were done, but not told of."""
        return min(max(self._begun() - self.ended - 1, 0), len(self.tasks) - 1)

    def end(self) -> None:
        self.line.close()
        self.process.kill()
        self.process.wait()
        self.begun.close()


@dataclass(kw_only=True)
class Pool:
    """Workers, started when there is work; it needs ``with``."""

    jobs: int
    settings: Callable[[], Said]
    """What a new worker is told first; called for each."""

    memory_bytes: int
    """Sum of ``nbytes`` of tasks at work at one time; a single task may be over it."""

    module: str = WORKER
    _hands: list[_Hand] = field(default_factory=list)
    _next: Task | None = None
    _again: deque[Task] = field(default_factory=deque)

    def __enter__(self) -> "Pool":
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker, whatever it is at."""
        while self._hands:
            self._hands.pop().end()

    def carry_out(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Said]]:
        """Yield what workers say of each task, its last word one of LAST, as it comes.

        Tasks are drawn only when a worker is free. A worker that dies says ``skip: crashed the
        reader``; one that is silent too long is ended and says ``skip: takes too long``.
        """
        waiting = iter(tasks)
        self._next = next(waiting, None)
        while self._next or self._busy():
            while self._next and (hand := self._free(self._next)):
                hand.give(self._next)
                self._next = self._again.popleft() if self._again else next(waiting, None)
            for hand in self._hands:
                hand.send()
            for hand in self._ready():
                yield from self._hear(hand)
            if self._again and not self._next:
                self._next = self._again.popleft()

    def _busy(self) -> list[_Hand]:
        return [hand for hand in self._hands if hand.tasks]

    def _free(self, task: Task) -> _Hand | None:
        """Return who may take *task* now: the least busy, None if all have enough."""
        wanted = sum(hand.nbytes for hand in self._hands) + task.nbytes
        if wanted > self.memory_bytes and self._busy():
            return None
        idle = next((hand for hand in self._hands if not hand.tasks), None)
        if idle or len(self._hands) < self.jobs:
            return idle or self._start()
        least = min(self._hands, key=lambda hand: len(hand.tasks))
        return least if least.takes(task) else None

    def _ready(self) -> list[_Hand]:
        """Return the workers that have something to say, or will never say anything more."""
        lines = {hand.line: hand for hand in self._busy()}
        spoke = [lines[line] for line in wait(list(lines), TICK_S) if isinstance(line, Connection)]
        return spoke + [hand for hand in lines.values() if hand.late() and hand not in spoke]

    def _hear(self, hand: _Hand) -> Iterator[tuple[Task, Said]]:
        """Yield what a worker has said in one message."""
        try:
            some: list[Said] = json.loads(hand.line.recv_bytes()) if hand.line.poll() else []
        except (EOFError, OSError, ValueError):
            yield self._lost(hand, "crashed the reader")
            return
        if not some:
            yield self._lost(hand, "takes too long")
            return
        hand.heard = time.monotonic()
        for said in some:
            task = hand.tasks[0]
            if any(word in said for word in LAST):
                hand.finish()
            yield task, said

    def _lost(self, hand: _Hand, kind: str) -> tuple[Task, Said]:
        """End a worker; return the task that it was at, with what is to be said of it."""
        tasks = list(hand.tasks)
        blamed = tasks.pop(hand.at_work())
        hand.end()
        self._hands.remove(hand)
        self._again.extend(tasks)  # nothing was told of them
        return blamed, {"skip": kind, "detail": ""}

    def _start(self) -> _Hand:
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        with theirs, tempfile.TemporaryFile() as shared:
            shared.truncate(COUNTER_BYTES)
            given = [theirs.fileno(), shared.fileno()]
            process = subprocess.Popen(  # noqa: S603  (our own module, no shell)
                [sys.executable, "-m", self.module, *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**SOFT, **os.environ, "OMP_NUM_THREADS": "1"},
            )
            begun = mmap.mmap(shared.fileno(), COUNTER_BYTES)
        hand = _Hand(process=process, line=Connection(ours.detach()), begun=begun)
        with suppress(OSError):
            hand.line.send_bytes(json.dumps(self.settings()).encode())
        self._hands.append(hand)
        return hand
