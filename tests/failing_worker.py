"""Stands where a reading worker stands, and does what a task says: answers, dies, hangs, raves."""

import json
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from confrere_client.ingest.working.mouth import Mouth


def main() -> None:
    line = Connection(int(sys.argv[1]))
    try:
        line.recv_bytes()
        mouth = Mouth(line, int(sys.argv[2]))
        while True:
            mouth.answer(json.loads(line.recv_bytes()), answers)
    except (EOFError, OSError):
        return


def answers(ask: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if ask["do"] == "die":
        os._exit(1)
    if ask["do"] == "hang":
        time.sleep(60)
    yield from ({"number": number} for number in range(ask.get("says", 0)))
    yield {"done": True}


if __name__ == "__main__":
    main()
