"""What a worker says, several answers in a message: they are read far faster than one by one."""

import json
import mmap
import sys
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

Said = Mapping[str, Any]
Answers = Callable[[dict[str, Any]], Iterable[Said]]
QUIET_S = 0.05
"""So long may an answer wait for others."""

LONGEST = 48 << 10
COUNTER_BYTES = 8


class Mouth:
    """Of a task of which a part was told, the rest is told as it ends.

    So a task that ended unheard when the worker died was not heard of at all, and can be done anew.
    """

    def __init__(self, line: Connection, counter: int) -> None:
        self._line, self._begun, self._count = line, mmap.mmap(counter, COUNTER_BYTES), 0
        self._texts: list[str] = []
        self._length, self._sent_s, self._partly = 0, monotonic(), False

    def answer(self, asks: Iterable[dict[str, Any]], answers: Answers) -> None:
        """Do the tasks of one message, and tell of each."""
        for ask in asks:
            self._count += 1
            self._begun[:] = self._count.to_bytes(COUNTER_BYTES, sys.byteorder)
            for said in answers(ask):
                self._say(said)
            if self._partly:
                self._send(ended=True)
        self._send(ended=True)

    def _say(self, said: Said) -> None:
        self._texts.append(json.dumps(said))
        self._length += len(self._texts[-1])
        if self._length > LONGEST or monotonic() - self._sent_s > QUIET_S:
            self._send(ended=False)

    def _send(self, ended: bool) -> None:
        if self._texts:
            self._line.send_bytes(f"[{','.join(self._texts)}]".encode())
        self._texts.clear()
        self._length, self._sent_s, self._partly = 0, monotonic(), not ended
