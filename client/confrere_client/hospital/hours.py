"""Hours of the day: texts such as ``20:00-06:00``, also across midnight; all local time."""

import re
from collections.abc import Iterable
from datetime import datetime

_SPAN = re.compile(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)")
DAY = 24 * 60


def checked(spans: Iterable[str]) -> tuple[str, ...]:
    """Return *spans* as they are; ValueError when one is no span of hours."""
    for span in spans:
        start, end = _minutes(span)
        if start == end:
            raise ValueError(f"'{span}' ends as it begins: write 00:00-24:00 for the whole day")
    return tuple(spans)


def within(spans: Iterable[str], now: datetime) -> bool:
    """Say whether *now*, taken to local time if it bears a zone, lies in one of *spans*."""
    local = now if now.tzinfo is None else now.astimezone()
    minute = local.hour * 60 + local.minute
    return any(start <= minute < end for span in spans for start, end in _pieces(span))


def _pieces(span: str) -> list[tuple[int, int]]:
    """Return the span as minutes of one day: two pieces when it goes across midnight."""
    start, end = _minutes(span)
    pieces = [(start, end)] if start < end else [(start, DAY), (0, end)]
    return [(first, last) for first, last in pieces if first < last]


def _minutes(span: str) -> tuple[int, int]:
    found = _SPAN.fullmatch(span)
    if found is None:
        raise ValueError(f"'{span}' is no span of hours: write 20:00-06:00")
    hour, minute, last_hour, last_minute = map(int, found.groups())
    start, end = hour * 60 + minute, last_hour * 60 + last_minute
    if start >= DAY or end > DAY:
        raise ValueError(f"'{span}' leaves the day: hours run from 00:00 to 24:00")
    return start, end
