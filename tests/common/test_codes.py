"""What a site may say outside is a table, and no word of an exception is in it."""

import errno

import pytest

from confrere_common.codes import CODES, code_of, is_code, sentence_of
from confrere_common.errors import DataError, ExchangeError, RoundError, TrainingError

NAME = "SMITH^JOHN"


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


class ToldError(ExchangeError):
    """A fault that knows its code."""

    code = "other-plan"


class ForgedError(ExchangeError):
    """A fault with a code that is in no table."""

    code = NAME


def test_every_code_has_the_form_of_one_and_a_sentence() -> None:
    assert all(is_code(code) for code in CODES)
    assert all(text.endswith(".") and sentence_of(code) == text for code, text in CODES.items())


def test_codes_of_sites_that_only_score_say_what_else_they_stand_for() -> None:
    assert "nothing of its own to compare with" in sentence_of("nothing-to-score")
    assert "kept for scoring" in sentence_of("no-labels")


def test_a_code_of_a_newer_site_is_told_as_such() -> None:
    assert "'moon-is-full', which this version does not know" in sentence_of("moon-is-full")


@pytest.mark.parametrize("code", ["", NAME, "a\nb", "A", "x" * 41, "\x1b[31m", "a\n"])
def test_what_is_no_code_is_not_repeated(code: str) -> None:
    said = sentence_of(code)

    assert not is_code(code)
    assert not code or code not in said


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (DataError(NAME), "data-unreadable"),
        (TrainingError(NAME), "loss-not-finite"),
        (ExchangeError(NAME), "task-unreadable"),
        (MemoryError(NAME), "out-of-memory"),
        (OutOfMemoryError(NAME), "out-of-memory"),
        (OSError(errno.ENOSPC, "No space", NAME), "disk-full"),
        (OSError(errno.ENOENT, "No such file", NAME), "internal"),
        (RoundError(NAME), "internal"),
        (KeyError(NAME), "internal"),
        (KeyboardInterrupt(NAME), "internal"),
        (ToldError(NAME), "other-plan"),
        (ForgedError(NAME), "task-unreadable"),
    ],
)
def test_a_fault_becomes_a_code_of_the_table(fault: BaseException, code: str) -> None:
    assert code_of(fault) == code
    assert NAME not in sentence_of(code_of(fault))
