"""Marks of sites become numbers of shared images, and no small number, and no mark."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from described import ASKED
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Update
from confrere_common.marks import Marks, mark_of, marks_among, packed_marks, salt_of
from confrere_server.description.sharing import (
    NOTHING,
    Marked,
    Sharing,
    among,
    counted,
    keep_shared_in,
    marked,
    shared_in,
    sharing_of,
)

MARKS = [mark_of(f"{number:032x}", salt_of("run")) for number in range(400)]
ASKING = ASKED.__class__(duplicates=True)


def site(numbers: set[int] | range, smallest: int = 5, most: int = 10**6) -> Marked:
    told = marks_among((MARKS[number] for number in numbers), most)
    assert told is not None
    update = Update(site="x", round=1, delta={}, images=400, marks=packed_marks(told))
    found = marked(update, ASKING, smallest)
    assert found is not None
    return found


@given(st.lists(st.sets(st.integers(0, 60)), min_size=2, max_size=4), st.integers(2, 9))
@settings(deadline=None, max_examples=60)
def test_what_two_sites_share_is_the_intersection_of_their_images_or_too_small_to_be_told(
    images: list[set[int]], least: int
) -> None:
    found = counted({f"site-{n}": site(its, least) for n, its in enumerate(images)})

    assert len(found.pairs) == len(images) * (len(images) - 1) // 2
    for pair in found.pairs:
        one, two = (images[int(name[-1])] for name in (pair.one, pair.two))
        assert pair.images == (len(one & two) if len(one & two) >= least else 0)
        assert pair.least == least


def test_marks_that_end_in_zeros_are_told_apart() -> None:
    marks = [bytes(15) + b"\1", b"\1" + bytes(15), b"\1\1" + bytes(14)]
    told = packed_marks(Marks(marks=tuple(sorted(marks))))
    found = marked(Update(site="x", round=1, delta={}, images=9, marks=told), ASKING, 2)

    assert found is not None
    assert counted({"a": found, "b": found}).pairs[0].images == 3


def test_the_larger_limit_of_two_sites_holds() -> None:
    pair = counted({"a": site(range(10), 5), "b": site(range(10), 11)}).pairs[0]

    assert pair.images == 0
    assert pair.least == 11
    assert pair.sentence == "fewer than 11"


def test_of_a_site_with_very_many_a_sample_is_compared_and_it_is_said() -> None:
    pair = counted({"a": site(range(400), most=120), "b": site(range(300))}).pairs[0]

    due = {m for m in MARKS[:300] if m[0] < 64}
    assert pair.one_in == 4
    assert pair.images == len(due)
    assert pair.sentence == f"at least {len(due)}, of one image in 4"


def test_what_is_written_down_holds_no_mark(tmp_path: Path) -> None:
    sharing = counted({"a": site(range(40)), "b": site(range(20, 60))})

    keep_shared_in(tmp_path)(sharing)

    written = (tmp_path / "shared.json").read_bytes()
    assert shared_in(tmp_path) == sharing
    assert not any(form in written for m in MARKS for form in (m, m.hex().encode()))
    assert all(
        type(value) in (str, int) for pair in sharing.pairs for value in asdict(pair).values()
    )
    assert "marks" not in repr(site(range(4)))


def test_nothing_is_kept_where_nothing_was_counted(tmp_path: Path) -> None:
    assert shared_in(tmp_path) == NOTHING


def test_sites_whose_answer_did_not_count_are_in_no_pair() -> None:
    sharing = counted({name: site(range(9)) for name in "abc"})

    left = among(sharing, ["a", "c"])

    assert left.sites == ("a", "c")
    assert [(pair.one, pair.two) for pair in left.pairs] == [("a", "c")]


def test_marks_that_the_run_does_not_ask_for_are_refused() -> None:
    update = Update(site="x", round=1, delta={}, images=9, marks=b"\0")

    with pytest.raises(ExchangeError, match="does not ask for"):
        marked(update, ASKED, 5)


@pytest.mark.parametrize("plain", [7, ["x"], {"pairs": [{"one": "a"}]}, {"sites": 3}])
def test_numbers_that_were_changed_are_not_read(plain: object) -> None:
    with pytest.raises(ExchangeError, match="damaged"):
        sharing_of(plain)


def test_numbers_are_read_as_they_were_written() -> None:
    sharing = counted({"a": site(range(9)), "b": site(range(3, 9))})

    assert sharing_of(json.loads(json.dumps(asdict(sharing)))) == sharing
    assert sharing_of({}) == Sharing()
