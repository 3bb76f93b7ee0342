"""``marks``: what leaves is one hash an image under the run's own key, in an order that tells
nothing, and never more of them than were allowed."""

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Update
from confrere_common.marks import (
    MARK_BYTES,
    MOST_MARKS,
    MOST_MARKS_BYTES,
    Marks,
    mark_of,
    marks_among,
    packed_marks,
    read_marks,
    salt_of,
)
from confrere_common.wire import answer_records, read_answer

SETS = st.sets(st.binary(min_size=MARK_BYTES, max_size=MARK_BYTES), max_size=60)


def many(count: int) -> set[bytes]:
    return {mark_of(f"{number:032x}", salt_of("run")) for number in range(count)}


def test_a_mark_is_the_hmac_of_the_digest_cut_to_16_bytes() -> None:
    key = hashlib.sha256(b"confrere marks\0census-1").digest()

    found = mark_of("00ff" * 8, salt_of("census-1"))

    assert found == hmac.new(key, bytes.fromhex("00ff" * 8), "sha256").digest()[:16]


def test_marks_of_two_runs_have_nothing_in_common() -> None:
    digests = [f"{number:032x}" for number in range(200)]

    first, second = ({mark_of(one, salt_of(run)) for one in digests} for run in ("a-1", "a-2"))

    assert len(first) == len(second) == 200
    assert not first & second


@given(SETS, st.integers(0, 60))
@settings(deadline=None, max_examples=50)
def test_as_many_are_told_as_allowed_and_two_samples_agree(found: set[bytes], most: int) -> None:
    told, every = marks_among(found, most), marks_among(found, len(found))

    assert every is not None
    assert {*every.marks} == found
    if told is not None:
        assert len(told.marks) <= most
        assert [*told.marks] == sorted({*told.marks})
        zeros = [m for m in found if int.from_bytes(m) >> (128 - told.halvings) == 0]
        assert told.marks == tuple(sorted(zeros))
        assert read_marks(packed_marks(told), len(found)) == told


def test_the_order_in_which_images_come_is_not_told() -> None:
    found = sorted(many(40))

    assert marks_among(found, 100) == marks_among(found[::-1], 100)


def test_a_sample_is_as_large_as_its_half_was_too_large() -> None:
    told = marks_among(many(1000), 300)

    assert told is not None
    assert told.halvings == 2
    assert 150 < len(told.marks) <= 300


def test_none_are_told_where_nothing_may_leave() -> None:
    assert marks_among(many(3), -1) is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" + b"x" * 15, b"\0" + b"b" * 16 + b"a" * 16, b"\0" + b"a" * 32,
        b"\1" + b"\xff" * 16, bytes([41]) + b"\0" * 16, b"\0" + bytes(range(16 * 10)),
        b"Mueller, Anna",
    ],
)  # fmt: skip
def test_what_is_no_sound_set_of_marks_is_not_read(content: bytes) -> None:
    with pytest.raises(ExchangeError) as fault:
        read_marks(content, images=9)

    assert "Mueller" not in str(fault.value)


def test_more_marks_than_images_or_than_any_site_may_tell_are_not_read() -> None:
    three = packed_marks(Marks(marks=tuple(sorted(many(3)))))

    with pytest.raises(ExchangeError, match="no marks of 2 images"):
        read_marks(three, images=2)
    with pytest.raises(ExchangeError, match="no marks"):
        read_marks(bytes(1 + MARK_BYTES * (MOST_MARKS + 1)), images=10**9)


def answer(marks: Any) -> Update:
    return Update(site="north", round=1, delta={}, images=40, description="x", marks=marks)


def test_marks_cross_the_wire_and_an_answer_without_them_says_nothing_of_them() -> None:
    with_them, without = answer(b"\0" + b"m" * 16), answer(b"")

    assert read_answer(answer_records(with_them)) == with_them
    assert read_answer(answer_records(without)) == without
    assert "marks" not in answer_records(without)["answer"]


@pytest.mark.parametrize("marks", [b"x" * (MOST_MARKS_BYTES + 1), "text", 7])
def test_what_is_too_long_or_no_bytes_does_not_cross(marks: Any) -> None:
    with pytest.raises(ExchangeError):
        read_answer(answer_records(answer(marks)))
