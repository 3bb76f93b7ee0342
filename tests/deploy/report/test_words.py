import pytest

from confrere_deploy.report.schema import Figure
from confrere_deploy.report.words import amount, brief, counted, duration, listed, shorten, spoken


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.50 KiB"), (44_000_000, "42 MiB"),
     (1023 * 2**20, "1023 MiB"), (5 * 2**40, "5 TiB")],
)  # fmt: skip
def test_bytes_are_told_in_the_unit_that_fits(count: int, told: str) -> None:
    assert amount(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0421, "0.042 s"), (59.6, "1 min 0 s"), (161.2, "2 min 41 s"), (7260, "2 h 1 min")],
)
def test_times_are_told_in_the_units_that_fit(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_figure_is_told_with_its_interval_if_it_has_one() -> None:
    assert spoken(Figure(mean=0.9, low=0.88, high=0.92, n=3)) == "0.900 (0.880 to 0.920)"
    assert spoken(Figure(mean=-0.1, low=-0.1, high=-0.1, n=1), 2) == "\N{MINUS SIGN}0.10"


def test_small_words_fit_their_count() -> None:
    assert counted(1, "site") == "1 site"
    assert counted(1000, "site") == "1,000 sites"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert brief(None) == "\N{EN DASH}"


def test_a_name_is_cut_and_freed_of_what_no_drawing_holds() -> None:
    assert shorten("a" * 40) == "a" * 27 + "…"
    assert shorten("a\x00\nb") == "ab"
