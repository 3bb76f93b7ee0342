"""How long a round waits: learned, within limits, and not from those that hang."""

from hypothesis import given
from hypothesis import strategies as st

from confrere_server.runs.deadline import LEAST_S, MEMORY, PATIENCE, deadline_s

PACES = st.lists(st.floats(0.001, 1e5), max_size=30)
CEILING = st.floats(LEAST_S, 1e6)


def test_without_history_the_ceiling_holds() -> None:
    assert deadline_s([], 1234.0) == 1234.0


def test_it_is_three_times_the_usual() -> None:
    assert deadline_s([100.0, 110.0, 90.0], 3600) == 300.0


def test_one_slow_round_moves_it_little() -> None:
    assert deadline_s([100.0] * 4 + [3000.0], 1e6) == 300.0


@given(PACES, CEILING)
def test_it_is_within_its_limits(paces: list[float], ceiling: float) -> None:
    found = deadline_s(paces, ceiling)

    assert LEAST_S <= found <= ceiling


@given(PACES, CEILING)
def test_what_is_long_ago_counts_no_more(paces: list[float], ceiling: float) -> None:
    recent = [50.0] * MEMORY

    assert deadline_s([*paces, *recent], ceiling) == min(ceiling, PATIENCE * 50)


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=9), CEILING)
def test_slower_rounds_are_never_given_less_time(paces: list[float], ceiling: float) -> None:
    assert deadline_s([2 * pace for pace in paces], ceiling) >= deadline_s(paces, ceiling)


def test_a_ceiling_below_the_least_holds_all_the_same() -> None:
    assert deadline_s([1.0], 10.0) == 10.0
