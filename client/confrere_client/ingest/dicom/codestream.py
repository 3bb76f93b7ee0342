"""What a compressed frame says of itself, read before a decoder allocates what it asks for.

A DICOM header may say 512 x 512 and the JPEG inside 65,535 x 65,535.
Sources: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5 (JPEG 2000).
"""

import struct
from dataclasses import dataclass

from confrere_client.ingest.reader import Skipped

SOI, SOC, END = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd9"
JP2 = b"\x00\x00\x00\x0cjP  "
CODESTREAM = b"jp2c"
BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG markers without a length."""

FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""JPEG and JPEG-LS markers that hold the size of the picture."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Height, width and samples a pixel."""

    rows: int
    columns: int
    samples: int


def declared(frame: bytes) -> Size | None:
    """Return the size that a codestream declares; None when it is of no kind known here."""
    if frame.startswith(JP2):
        at = _within_boxes(frame)
        return _jpeg2000(frame, at) if at > 0 else None
    if frame.startswith(SOC):
        return _jpeg2000(frame, 0)
    return _jpeg(frame) if frame.startswith(SOI) else None


def refuse_foreign(frame: bytes, wanted: Size) -> None:
    """Skip a frame whose codestream has another size than the header, or no end."""
    found = declared(frame)
    if found is None:
        if frame[:2] in (SOI, SOC[:2]) or frame.startswith(JP2):
            raise Skipped("corrupt", "a compressed frame has no size")
        return
    if (found.rows, found.columns) != (wanted.rows, wanted.columns):
        raise Skipped("inconsistent size", "a compressed frame differs from its header")
    if found.samples not in (wanted.samples, 1, 3):
        raise Skipped("inconsistent size", "a compressed frame has other colours than its header")
    if END not in frame[-64:].rstrip(b"\0") and not frame.rstrip(b"\0").endswith(END):
        raise Skipped("truncated", "a compressed frame has no end")


def _within_boxes(frame: bytes) -> int:
    """Return where the codestream of a JP2 file begins; 0 when its boxes do not lead there.

    A box that is shorter than its own head leads nowhere: pydicom would go round for ever.
    """
    at = len(JP2) + 4
    while at + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, at)
        if kind == CODESTREAM:
            start = at + (16 if length == 1 else 8)  # 1: its length stands in 8 bytes more
            return start if frame.startswith(SOC, start) else 0
        if length < 8:
            return 0
        at += length
    return 0


def _jpeg(frame: bytes) -> Size | None:
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF or marker in BARE:  # a fill byte, or a marker that stands alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAMES:
            rows, columns, samples = struct.unpack_from(">HHB", frame, at + 5)
            return Size(rows=rows, columns=columns, samples=samples)
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _jpeg2000(frame: bytes, at: int) -> Size | None:
    if len(frame) < at + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", frame, at + 8)
    (samples,) = struct.unpack_from(">H", frame, at + 40)
    return Size(rows=bottom - top, columns=right - left, samples=samples)
