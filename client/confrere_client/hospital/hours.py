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


def meet(one: tuple[str, ...] | None, two: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the spans that lie in both; None is always."""
    if one is None or two is None:
        return two if one is None else one
    common = {
        (max(start, other), min(end, last))
        for start, end in _all(one)
        for other, last in _all(two)
        if max(start, other) < min(end, last)
    }
    return tuple(_text(start, end) for start, end in sorted(common))


def _all(spans: Iterable[str]) -> list[tuple[int, int]]:
    """Return the minutes of all spans as pieces of one day that are apart from each other."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(piece for span in spans for piece in _pieces(span)):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


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


def _text(start: int, end: int) -> str:
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end))
