"""``marks_that_leave``: "Guarantee: at most *most_bytes* with the description beside it, and
nothing that could be told of an image by somebody without that very image."
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from described import closed, record
from numpy.typing import NDArray

from confrere_client.ingest.working.facts import digest_of
from confrere_client.marking import marks_that_leave
from confrere_client.source import Record
from confrere_common.describe import MOST_TEXT, Describe
from confrere_common.marks import mark_of, read_marks, salt_of

ASKED = Describe(duplicates=True)
Pixels = NDArray[np.uint8]


def painted(number: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    return np.random.default_rng(number).integers(0, 255, (1, 6, 6)).astype(dtype)


def image(number: int, pixels: NDArray[np.generic] | None = None) -> Record:
    shown = painted(number) if pixels is None else pixels
    return record(number, decode=lambda: shown)


def images(count: int) -> list[Record]:
    return [image(number) for number in range(count)]


def left(records: list[Record], asked: Describe = ASKED, **changes: object) -> bytes:
    terms: dict[str, object] = {"allowed": True, "run_id": "run-1", "most_bytes": 10**9, **changes}
    return marks_that_leave(records, asked, **terms)  # type: ignore[arg-type]


def marks_in(content: bytes) -> set[bytes]:
    return {*read_marks(content, images=10**6).marks}


def test_nothing_leaves_where_the_policy_does_not_allow_it() -> None:
    assert left(images(8), allowed=False) == b""


def test_nothing_leaves_where_the_run_does_not_ask() -> None:
    assert left(images(8), Describe()) == b""


def test_no_image_is_even_opened_where_nothing_leaves() -> None:
    def opened() -> Pixels:
        pytest.fail("it was opened")

    assert left([record(0, decode=opened)], allowed=False) == b""


def test_one_mark_leaves_for_each_image_and_a_copy_has_none_of_its_own() -> None:
    found = marks_in(left([*images(8), image(99, painted(3))]))

    due = {mark_of(digest_of(painted(number)), salt_of("run-1")) for number in range(8)}
    assert found == due


def test_of_two_runs_not_one_mark_is_the_same() -> None:
    first, second = left(images(30)), left(images(30), run_id="run-2")

    assert len(marks_in(first)) == len(marks_in(second)) == 30
    assert not marks_in(first) & marks_in(second)


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels.astype(np.uint16),
        lambda pixels: pixels.reshape(1, 4, 9),
        lambda pixels: np.where(np.arange(36).reshape(1, 6, 6) == 7, 255 - pixels, pixels),
    ],
)
def test_depth_shape_and_every_pixel_count(
    change: Callable[[NDArray[np.generic]], NDArray[np.generic]],
) -> None:
    one, other = left([image(0)]), left([image(0, change(painted(0)))])

    assert not marks_in(one) & marks_in(other)


def test_images_of_one_level_and_those_that_cannot_be_read_have_no_mark() -> None:
    black = image(1, np.zeros((1, 6, 6), np.uint8))

    assert left([black, record(2, decode=closed)]) == left([])
    assert marks_in(left([])) == set()


def test_a_data_set_that_keeps_digests_is_not_opened_and_tells_the_same() -> None:
    kept = record(4, digest=digest_of(painted(4)))

    assert left([kept]) == left([image(4)])


def test_the_order_of_images_is_not_told() -> None:
    assert left(images(20)) == left(images(20)[::-1])


@pytest.mark.parametrize("room", [0, 100, 400])
def test_no_more_leaves_than_the_policy_s_bytes(room: int) -> None:
    content = left(images(60), most_bytes=MOST_TEXT + room)

    assert len(content) <= room
    assert bool(content) == (room > 0)


def test_no_name_of_a_file_or_a_patient_is_in_what_leaves() -> None:
    content = left(images(12))

    assert b"Mueller" not in content
    assert b"patient" not in content
    assert Path(images(1)[0].name).stem.encode() not in content
