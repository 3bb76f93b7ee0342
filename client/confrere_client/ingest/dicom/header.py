"""A DICOM header: opened without pixels, refused by kind, and priced before anything is allocated.

Nothing that it raises quotes the header.
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from confrere_client.ingest.dicom.values import holds, text, whole
from confrere_client.ingest.reader import HEAD_BYTES, Skipped

PREAMBLE = 128
GZIP = b"\x1f\x8b"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT = "1.2.840.10008.1.2.1"
MAX_INFLATED = 1 << 29
"""A packed file, or a deflated data set, that grows beyond this is taken for a bomb."""

HOLDERS = (b"OB", b"OW", b"OF", b"OD", b"UN")
"""Kinds of value that pixel data can be of. None is the start of a length: their first byte is
odd, and lengths are even; in big endian, a kind has to be there."""

DEFERRED = 4096
"""A header's value of more bytes than this stays on disk until it is asked for."""

PIXELS = (0x7FE0, (0x0008, 0x0009, 0x0010))
"""Group and elements of pixel data: float, double, whole."""

UNDEFINED = 0xFFFFFFFF
FRAGMENT = b"\xfe\xff\x00\xe0"
"""How a piece of compressed pixels begins, whatever the file's order of bytes."""

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy, which the slide reader reads."""

OTHERS: dict[str, str] = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.104.1": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.104.2": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.104.3": "surface or model",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66": "registration or raw data",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
}
"""SOP class -> why it is no image; exact."""

FAMILIES: tuple[tuple[str, str], ...] = (
    ("1.2.840.10008.5.1.4.1.1.481.", "radiotherapy object"),
    ("1.2.840.10008.5.1.4.1.1.88.59", "key object selection"),
    ("1.2.840.10008.5.1.4.1.1.88.", "structured report"),
    ("1.2.840.10008.5.1.4.1.1.11.", "presentation state"),
    ("1.2.840.10008.5.1.4.1.1.9.", "waveform"),
    ("1.2.840.10008.5.1.4.1.1.66.", "registration or raw data"),
    ("1.2.840.10008.5.1.4.1.1.104.", "encapsulated document"),
    ("1.2.840.10008.5.1.4.1.1.68.", "surface or model"),
    ("1.2.840.10008.5.1.4.38.", "hanging protocol"),
)
"""How SOP classes begin -> why they are no image."""

MODALITIES: dict[str, str] = {
    "SR": "structured report",
    "KO": "key object selection",
    "PR": "presentation state",
    "RTSTRUCT": "radiotherapy object",
    "RTPLAN": "radiotherapy object",
    "RTDOSE": "radiotherapy object",
    "RTRECORD": "radiotherapy object",
    "REG": "registration or raw data",
    "SEG": "segmentation",
    "ECG": "waveform",
    "HD": "waveform",
    "DOC": "encapsulated document",
    "AU": "waveform",
}
"""Modality -> why it is no image, for files whose SOP class is missing or private."""


def looks_like_dicom(head: bytes) -> bool:
    """Say whether *head* starts a DICOM file, with a preamble or by its first elements.

    A packed one (``.dcm.gz``) is one.
    """
    if head.startswith(GZIP):
        head = unpacked(head)
    if head[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return True
    return _elements(head, "<") or _elements(head, ">")


def is_slide(head: bytes) -> bool:
    """Say whether the meta header names a whole slide."""
    return re.search(re.escape(SLIDE).encode() + rb"(?![0-9.])", head) is not None


def _elements(head: bytes, order: str) -> bool:
    """Say whether three plausible elements in ascending order stand at the start."""
    at, last = 0, (0, 0)
    for _ in range(3):
        if len(head) < at + 8:
            return False
        group, element, vr, short = struct.unpack_from(f"{order}HH2sH", head, at)
        (long,) = struct.unpack_from(f"{order}I", head, at + 4)
        if (group, element) <= last or group not in (2, 4, 8):
            return False
        explicit = vr.isalpha() and vr.isupper()
        length = short if explicit else long
        if length > 512 or length % 2 or (explicit and vr in (b"OB", b"SQ", b"UN")):
            return explicit and at > 0
        at, last = at + 8 + length, (group, element)
    return True


def parse(file: Path) -> Any:
    """Return the whole data set of *file*. Deflated data is inflated up to a limit only."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        return dcmread(_in_memory(file) or str(file), force=True)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the value of the pixel data stands in a file."""

    offset: int
    length: int
    """-1 when it is encapsulated."""


def parse_header(file: Path) -> tuple[Any, Place | None]:
    """Return the data set up to its pixels, and where these stand; large values stay on disk.

    None when the file ends before any pixel data.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    inflated = _in_memory(file)
    with disable_value_validation(), inflated or file.open("rb") as stream:
        deferred = None if inflated else DEFERRED  # what is in memory need not be put off
        ds = dcmread(stream, force=True, stop_before_pixels=True, defer_size=deferred)
        return ds, _place(stream, little=ds.original_encoding[1])


def _place(stream: BinaryIO, *, little: bool | None) -> Place | None:
    """Return where the pixel data stands, if *stream* is about to read it.

    Whether its kind stands before its length is seen here: headers that say otherwise than they
    are written are met, and pydicom reads them.
    """
    order, at = "<" if little else ">", stream.tell()
    head = stream.read(12)
    if len(head) < 12:
        return None
    group, element = struct.unpack_from(f"{order}HH", head)
    if group != PIXELS[0] or element not in PIXELS[1]:
        return None
    implicit = head[4:6] not in HOLDERS
    (length,) = struct.unpack_from(f"{order}I", head, 4 if implicit else 8)
    return Place(offset=at + (8 if implicit else 12), length=-1 if length == UNDEFINED else length)


def _in_memory(file: Path) -> io.BytesIO | None:
    """Return a packed or deflated file as if it had never been; None when it is neither."""
    with file.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        if not packed:
            return _inflated(raw)
        whole = io.BytesIO(_grown(raw.read(MAX_INFLATED), zlib.MAX_WBITS | 16))
    return _inflated(whole) or _begun_again(whole)


def unpacked(head: bytes) -> bytes:
    """Return the start of what is packed in *head*; nothing where that is torn."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def _begun_again(stream: io.BytesIO) -> io.BytesIO:
    stream.seek(0)
    return stream


def _grown(packed: bytes, window_bits: int) -> bytes:
    """Return what *packed* inflates to; Skipped where it is torn, or grows without end."""
    inflater = zlib.decompressobj(window_bits)
    data = inflater.decompress(packed, MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise Skipped("too large", "what is packed in it inflates without end")
    if not inflater.eof:
        raise Skipped("truncated")
    return data


def _inflated(stream: BinaryIO) -> io.BytesIO | None:
    """Return a deflated file as if it had never been deflated; None when it is not."""
    head = stream.read(HEAD_BYTES)
    if DEFLATED.encode() not in head or head[PREAMBLE : PREAMBLE + 4] != b"DICM":
        return None
    start = _after_meta(head)
    if start > len(head):
        raise Skipped("corrupt", "its meta header is too long")
    stream.seek(start)
    data = _grown(stream.read(MAX_INFLATED), -zlib.MAX_WBITS)
    plain = EXPLICIT.encode().ljust(len(DEFLATED), b"\0")  # of equal length: all lengths stay true
    return io.BytesIO(head[:start].replace(DEFLATED.encode(), plain) + data)


def _after_meta(head: bytes) -> int:
    """Return where group 2 ends, as its first element says."""
    tag, vr, length = head[132:136], head[136:138], struct.unpack_from("<H", head, 138)[0]
    if tag != b"\x02\0\0\0" or vr != b"UL" or length != 4:
        raise Skipped("corrupt", "its meta header has no length")
    return int(144 + struct.unpack_from("<I", head, 140)[0])


def refuse_kind(ds: Any) -> None:
    """Skip every object that is no image, by SOP class, else by modality."""
    sop = text(ds, "SOPClassUID") or str(getattr(ds.file_meta, "MediaStorageSOPClassUID", ""))
    if sop == SLIDE:
        raise Skipped("slide", "it is packed or has no meta header: OpenSlide wants it plain")
    if len(ds) == 0:
        raise Skipped("corrupt", "it has no readable header")
    by_class = OTHERS.get(sop) or next(
        (why for start, why in FAMILIES if sop.startswith(start)), ""
    )
    if reason := by_class or MODALITIES.get(text(ds, "Modality").upper(), ""):
        raise Skipped(reason)
    if holds(ds, "DirectoryRecordSequence"):
        raise Skipped("DICOMDIR")


def refuse_torn(file: Path, place: Place) -> None:
    """Skip a file that ends within a fragment of compressed pixels.

    Left to the series, it would take all the slices along.
    """
    size, at = file.stat().st_size, place.offset
    with file.open("rb") as stream:
        while at < size:
            stream.seek(at)
            head = stream.read(8)
            if len(head) < 8 or head[:4] != FRAGMENT:
                return  # the end, or something that decoders may make sense of
            at += 8 + int(struct.unpack_from("<I", head, 4)[0])
    if at > size:
        raise Skipped("truncated", "it ends within its compressed pixels")


def nbytes(ds: Any) -> int:
    """Return how many bytes the pixels will take as float32, or as colour; from the header."""
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    frames = max(1, whole(ds, "NumberOfFrames", 1))
    samples = max(1, whole(ds, "SamplesPerPixel", 1))
    deep = 4 if samples == 1 else max(1, whole(ds, "BitsAllocated", 8) // 8)
    if "PALETTE" in text(ds, "PhotometricInterpretation"):
        deep = 3
    return rows * columns * frames * samples * deep


def transfer_syntax(ds: Any) -> str:
    """Return the UID of the transfer syntax; without one, what the bytes were read as."""
    found = str(getattr(ds.file_meta, "TransferSyntaxUID", "") or "") if ds.file_meta else ""
    if found and found != DEFLATED:
        return found
    implicit, little = ds.original_encoding
    if not little:
        return "1.2.840.10008.1.2.2"
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
