"""An array is read when its header is the very one due, and nothing is allocated before."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import ExchangeError
from confrere_common.npy import read_npy


def raw_of(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3), (1, 2, 3, 4, 5), (70_000,)])
def test_what_numpy_writes_is_read(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    found = read_npy("w", raw_of(array))

    assert found.dtype == torch.float32
    assert found.shape == shape
    assert np.array_equal(found.numpy(), array)
    found += 1  # its memory is its own


def header(text: str, entries: int = 4) -> bytes:
    padded = text.ljust(117) + "\n"
    return (
        b"\x93NUMPY\x01\x00"
        + len(padded).to_bytes(2, "little")
        + padded.encode()
        + bytes(4 * entries)
    )


SOUND = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }"

FAULTY = {
    "nothing": (b"", "no .npy of version"),
    "no array": (b"PK\3\4 a zip file, perhaps of pickles", "no .npy of version"),
    "another version": (header(SOUND).replace(b"Y\x01", b"Y\x02", 1), "no .npy of version"),
    "a header longer than what came": (header(SOUND)[:40], "no .npy of version"),
    "doubles": (raw_of(np.zeros(4)), "no array of float32"),
    "whole numbers": (raw_of(np.zeros(4, np.int64)), "no array of float32"),
    "complex numbers": (raw_of(np.zeros(2, np.complex64)), "no array of float32"),
    "text": (raw_of(np.array(["a"])), "no array of float32"),
    "half floats": (raw_of(np.zeros(8, np.float16)), "no array of float32"),
    "the other byte order": (raw_of(np.zeros(4, ">f4")), "no array of float32"),
    "columns first": (
        raw_of(np.asfortranarray(np.zeros((2, 3), np.float32))),
        "no array of float32",
    ),
    "a record": (raw_of(np.zeros(2, [("a", "<f4")])), "no array of float32"),
    "a pickled object": (
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        "no array of float32",
    ),
    "a huge shape": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        "claims 1000000000000 entries",
    ),
    "a shape that wraps around": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0),
        "claims 18446744073709551616 entries",
    ),
    "a negative axis": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        "no array of float32",
    ),
    "code": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (print(1),), }"),
        "no array of float32",
    ),
    "a key too many": (header(SOUND.replace(", }", ", 'x': 1, }")), "no array of float32"),
    "too few bytes": (header(SOUND, 3), "take 16 bytes; 12 came"),
    "too many bytes": (header(SOUND, 5), "take 16 bytes; 20 came"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_anything_else_is_refused_with_a_sentence(what: str) -> None:
    raw, due = FAULTY[what]

    with pytest.raises(ExchangeError, match="'w' is no array") as fault:
        read_npy("w", raw)

    assert due in str(fault.value)


def test_a_header_that_claims_terabytes_costs_nothing() -> None:
    raw = FAULTY["a huge shape"][0]
    tracemalloc.start()

    with pytest.raises(ExchangeError):
        read_npy("w", raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 200_000


@settings(deadline=None, max_examples=200)
@given(place=st.integers(0, 143), value=st.integers(0, 255))
def test_no_flipped_byte_is_more_than_a_refusal_or_another_number(place: int, value: int) -> None:
    raw = bytearray(header(SOUND))
    raw[place] = value

    try:
        found = read_npy("w", bytes(raw))
    except ExchangeError:
        return
    assert found.shape == (4,)
