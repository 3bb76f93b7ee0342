"""Hours of the day, across midnight too."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import strategies as st

from confrere_client.hospital.hours import checked, within

minutes = st.integers(0, 24 * 60 - 1)


@st.composite
def spans(draw: st.DrawFn) -> str:
    start, end = draw(st.lists(minutes, min_size=2, max_size=2, unique=True))
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end))


hours = st.none() | st.lists(spans(), max_size=3).map(tuple)


def at(minute: int) -> datetime:
    return datetime(2026, 3, 1, minute // 60, minute % 60, 30)  # noqa: DTZ001  (local time)


@pytest.mark.parametrize(
    ("span", "open_at", "closed_at"),
    [
        ("20:00-06:00", ["20:00", "23:59", "00:00", "05:59"], ["19:59", "06:00", "12:00"]),
        ("08:30-17:00", ["08:30", "16:59"], ["08:29", "17:00", "00:00"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        ("22:00-24:00", ["22:00", "23:59"], ["00:00", "21:59"]),
        ("22:00-00:00", ["22:00", "23:59"], ["00:00", "21:59"]),
    ],
)
def test_a_span_holds_its_first_minute_and_not_its_last(
    span: str, open_at: list[str], closed_at: list[str]
) -> None:
    moments = {text: datetime.fromisoformat(f"2026-03-01T{text}") for text in open_at + closed_at}

    assert [text for text, now in moments.items() if within([span], now)] == open_at


def test_a_moment_with_a_zone_is_taken_to_local_time() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    far = now.astimezone(timezone(timedelta(hours=9)))
    local = now.astimezone()
    span = f"{local.hour:02}:00-{local.hour + 1:02}:00"

    assert within([span], now)
    assert within([span], far)


NO_SPANS = """
20-06 8:00-9:00 25:00-26:00 08:00-24:01 24:00-01:00 12:00-12:60 08:00-08:00 08:00:00-09:00
"""


@pytest.mark.parametrize("span", ["", "08:00-09:00\n", *NO_SPANS.split()])
def test_what_is_no_span_is_refused(span: str) -> None:
    with pytest.raises(ValueError, match=r"write|run from"):
        checked([span])
