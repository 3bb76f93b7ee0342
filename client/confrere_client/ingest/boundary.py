"""Where foreign decoders end: whatever they raise, print or log becomes a skip with a fixed phrase.

Their own messages may quote a header, and so a patient: none passes.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from confrere_client.ingest.reader import Skipped

MAX_BYTES = 4 << 30
"""Decoded pixels of one exam beyond this are refused unless the option ``max_bytes`` says more."""

MAX_TIMES = 32
"""An exam with more time points (echoes, directions, ...) is refused, lest it drown the others.

The option ``max_times`` overrides it."""

RUST = "pyo3_runtime"
"""Where the panics of decoders written in Rust come from: they are no Exception to Python."""

TALKERS = ("pydicom", "nibabel", "nibabel.global", "tifffile", "PIL")
"""Loggers of the libraries, whose lines may hold what a header holds."""


CHUNK_BYTES = 1 << 20
MEMBER = b"\x1f\x8b"
"""How a stream of gzip begins, and each further one in the same file."""


@contextmanager
def guarded(kind: str = "corrupt") -> Iterator[None]:
    """Turn every fault of a library into Skipped(*kind*) with the fault's type alone."""
    _hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Skipped:
        raise
    except Exception as fault:  # decoders raise anything, from struct.error to RecursionError
        raise _skipped(kind, fault) from None
    except BaseException as fault:
        if type(fault).__module__ != RUST:
            raise
        raise Skipped(kind, "the decoder broke off") from None


@cache
def _hush() -> None:
    """Silence the libraries' loggers for good: what they log of a header is nobody's."""
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _skipped(kind: str, fault: Exception) -> Skipped:
    match fault:
        case PermissionError():
            return Skipped("unreadable", "it may not be read by this account")
        case FileNotFoundError():
            return Skipped("unreadable", "it is no longer there")
        case MemoryError():
            return Skipped("too large", "there is not the memory to decode it")
        case EOFError():
            return Skipped("truncated")
    return Skipped(kind, type(fault).__name__)


def refuse_huge(nbytes: int, options: Mapping[str, Any]) -> None:
    """Skip what would take more than the limit once decoded, or takes nothing at all."""
    limit = int(options.get("max_bytes", MAX_BYTES))
    if nbytes > limit:
        raise Skipped("too large", f"{nbytes >> 20} MiB decoded, over {limit >> 20} MiB")
    if nbytes <= 0:
        raise Skipped("no pixel data", "the header gives it no size")


def refuse_many(times: int, options: Mapping[str, Any]) -> None:
    """Skip an exam of more time points than the limit."""
    limit = int(options.get("max_times", MAX_TIMES))
    if times > limit:
        raise Skipped("too many time points", f"{times}, over {limit}")


def refuse_short(file: Path, nbytes: int, ratio: int = 1) -> None:
    """Skip a file that cannot hold *nbytes*, even if it were packed *ratio* to one."""
    if file.stat().st_size * ratio < nbytes:
        raise Skipped("truncated", "its header announces more than the file can hold")


def refuse_damaged(stream: BinaryIO, least: int, most: int) -> None:
    """Skip what is packed from here on, unless it inflates whole and to its checksum.

    Libraries stop at the last voxel and never see the checksum behind it, so that one bit that
    fell over makes other voxels and no fault. *least*, *most*: how many bytes have to come out.
    """
    try:
        found = _inflated(stream, most)
    except zlib.error:
        raise Skipped("corrupt", "what is packed in it is damaged") from None
    if found > most:
        raise Skipped("too large", "it unpacks to far more than its header announces")
    if found < least:
        raise Skipped("truncated", "what is packed in it ends too soon")


def _inflated(stream: BinaryIO, most: int) -> int:
    """Return how many bytes come out of a packed stream, or a number over *most*; -1 if torn."""
    found, inflater = 0, zlib.decompressobj(zlib.MAX_WBITS | 32)
    while chunk := inflater.unconsumed_tail or inflater.unused_data or stream.read(CHUNK_BYTES):
        if inflater.eof:
            if not chunk.startswith(MEMBER):
                break
            inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        found += len(inflater.decompress(chunk, CHUNK_BYTES))
        if found > most:
            return found
    found += len(inflater.flush())
    return found if inflater.eof else -1
