"""One array as .npy bytes, read so that nothing is allocated but what came.

NumPy's own reader believes the header: one that claims 10 ** 12 entries makes it ask for as much
memory. Here the header must be the very one that NumPy writes for a float32 array of some shape, in
C order, and the bytes after it exactly as many as that shape takes.
"""

import re

import numpy as np
import torch
from torch import Tensor

from confrere_common.errors import ExchangeError

MAGIC = b"\x93NUMPY\x01\x00"
HEADER_AT_MOST = 1024
"""Bytes; NumPy's own for 32 axes has fewer."""

HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(((?:\d{1,20}, ?)*\d{0,20})\), \} *\n"
)


def read_npy(name: str, raw: bytes) -> Tensor:
    """Return the float32 tensor in *raw*; for anything else ExchangeError, before allocating."""
    shape, start = _shape(name, raw)
    size = 1
    for axis in shape:  # whole numbers of any length: nothing wraps around
        size *= axis
    if len(raw) - start != 4 * size:
        raise ExchangeError(
            f"'{name}' is no array: it claims {size} entries, which take {4 * size} bytes; "
            f"{len(raw) - start} came"
        )
    # A copy, since a tensor must own memory that may be written.
    return torch.from_numpy(np.frombuffer(raw, "<f4", size, start).reshape(shape).copy())


def _shape(name: str, raw: bytes) -> tuple[tuple[int, ...], int]:
    length = int.from_bytes(raw[8:10], "little")
    start = 10 + length
    if not raw.startswith(MAGIC) or length > HEADER_AT_MOST or len(raw) < start:
        raise ExchangeError(f"'{name}' is no array: no .npy of version 1.0 with a short header")
    found = HEADER.fullmatch(raw[10:start])
    if found is None:
        said = raw[10 : min(start, 90)].decode("latin-1").strip()
        raise ExchangeError(f"'{name}' is no array of float32 in C order: its header is {said!r}")
    return tuple(int(axis) for axis in found[1].replace(b" ", b"").split(b",") if axis), start
