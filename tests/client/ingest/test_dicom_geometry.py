import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.ingest.dicom.codestream import Size, declared, refuse_foreign
from confrere_client.ingest.dicom.frames import Frame
from confrere_client.ingest.dicom.geometry import stacks_of
from confrere_client.ingest.reader import Skipped


def frames_at(places: list[float], seed: int) -> list[Frame]:
    """Return frames at *places* along the normal of a plane turned at random."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    across = np.cross(turned[0], turned[1])
    return [
        Frame(
            part=at,
            shape=(8, 6),
            position=tuple(float(part) for part in place * across + [5, -7, 30]),
            axes=(*turned[0], *turned[1]),
            spacing=(0.5, 0.5),
            key=str(at),
        )
        for at, place in enumerate(places)
    ]


@given(st.integers(2, 40), st.floats(0.3, 10), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_a_stack_is_in_order_whatever_the_order_of_its_files(
    count: int, step_mm: float, seed: int
) -> None:
    frames = frames_at([at * step_mm for at in range(count)], seed)
    shuffled = [frames[at] for at in np.random.default_rng(seed).permutation(count)]

    (stack,) = stacks_of(shuffled)

    assert [frame.part for frame in stack.frames] == list(range(count))
    assert stack.step == pytest.approx(step_mm, rel=1e-3)
    assert len(stack.grid) == count
    assert stack.even
    assert not stack.warnings


@given(st.integers(20, 40), st.integers(1, 18), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_the_grid_has_a_place_for_a_slice_that_is_missing(count: int, gone: int, seed: int) -> None:
    frames = frames_at([2.0 * at for at in range(count)], seed)
    del frames[gone]

    (stack,) = stacks_of(frames)

    assert stack.warnings == ("gap between slices",)
    assert len(stack.grid) == count
    assert not stack.even


def test_positions_rounded_in_the_header_make_no_gap() -> None:
    frames = frames_at([round(at * 0.333, 1) for at in range(0, 60, 3)], 3)

    (stack,) = stacks_of(frames)

    assert not stack.warnings


def test_slices_without_places_go_by_their_number_and_are_told() -> None:
    frames = [Frame(part=at, number=9 - at, shape=(4, 4), key=str(at)) for at in range(3)]

    (stack,) = stacks_of(frames)

    assert [frame.number for frame in stack.frames] == [7, 8, 9]
    assert stack.warnings == ("no slice positions",)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\xff\x4f\xff\x51"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_codestream_or_none(tail: bytes, start: bytes) -> None:
    found = declared(start + tail)

    assert found is None or isinstance(found, Size)


@pytest.mark.parametrize(("length", "fine"), [(20, True), (0, False), (7, False), (99, False)])
def test_a_box_of_jp2_that_leads_nowhere_is_no_way_round_for_ever(length: int, fine: bool) -> None:
    """pydicom adds a box's length until it is at the end: 0 is none."""
    stream = imagecodecs.jpeg2k_encode(np.zeros((40, 56), np.uint8), codecformat="j2k")
    head = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s12x", length, b"ftyp")
    frame = head + struct.pack(">I4s", 8 + len(stream), b"jp2c") + stream
    size = Size(rows=40, columns=56, samples=1)

    assert declared(frame) == (size if fine else None)
    if not fine:
        with pytest.raises(Skipped, match="corrupt"):
            refuse_foreign(frame, size)


@pytest.mark.parametrize("codec", ["jpeg8", "jpegls", "jpeg2k", "htj2k", "ljpeg"])
def test_the_size_of_a_codestream_is_known_before_it_is_decoded(codec: str) -> None:
    stream = getattr(imagecodecs, f"{codec}_encode")(np.zeros((40, 56), np.uint8))

    assert declared(stream) == Size(rows=40, columns=56, samples=1)
    refuse_foreign(stream, Size(rows=40, columns=56, samples=1))
    with pytest.raises(Skipped, match="inconsistent size"):
        refuse_foreign(stream, Size(rows=40, columns=57, samples=1))
    with pytest.raises(Skipped, match="truncated"):
        refuse_foreign(stream[:-20], Size(rows=40, columns=56, samples=1))
