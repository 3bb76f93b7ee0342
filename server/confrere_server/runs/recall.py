"""What a server that starts again reads in its own audit log: closed rounds, and sites' heads."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def last_closed(log: Path, run: str) -> int:
    """Return the last round of *run* that the log tells to be closed; 0 when there is none."""
    closed = (facts for event, facts in _rows(log) if event == "closed" and facts.get("run") == run)
    return max((int(facts.get("round", 0)) for facts in closed), default=0)


def site_heads(log: Path) -> dict[str, tuple[int, str]]:
    """Return what each site last said of its own audit log: site -> (length, head)."""
    return {
        str(facts.get("site")): (int(facts.get("length", 0)), str(facts.get("head")))
        for event, facts in _rows(log)
        if event == "site head"
    }


def _rows(log: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield event and facts of every row that can be read; whether it is genuine, verify tells."""
    if not log.exists():
        return
    with log.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                yield str(row["event"]), dict(row["facts"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
