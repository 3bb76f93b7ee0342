"""Values of a DICOM header as plain text and numbers; a missing or malformed one is no fault."""

import struct
from functools import cache, lru_cache
from typing import Any

BINARY = {
    "US": ("H", 2), "SS": ("h", 2), "US or SS": ("H", 2), "UL": ("I", 4), "SL": ("i", 4),
    "FL": ("f", 4), "FD": ("d", 8),
}  # fmt: skip
"""Kinds of value that are no text -> how they are packed."""


def holds(ds: Any, keyword: str) -> bool:
    """Say whether an element is there; its own ``in`` parses the keyword anew, a hundred times."""
    return tag_of(keyword) in ds.keys()  # noqa: SIM118


def items(ds: Any, keyword: str) -> Any:
    """Return the items of a sequence; () when there is none."""
    return (ds.get(keyword) or ()) if holds(ds, keyword) else ()


def text(ds: Any, keyword: str) -> str:
    """Return a value as stripped text; '' when it is missing or cannot be read.

    It reads the raw bytes where it can: pydicom's conversion takes ten times as long.
    """
    if not holds(ds, keyword):
        return ""
    item = ds.get_item(tag_of(keyword), keep_deferred=True)
    value = None if item is None else item.value
    if isinstance(value, bytes):
        return _plain(item, value)
    if item is not None and value is None and getattr(item, "length", False):
        try:
            value = ds.get(keyword)
        except Exception:  # what stands on disk may be anything
            return ""
    if value is None:
        return ""
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        value = "\\".join(str(part) for part in value)
    return str(value).strip(" \0")


def _plain(item: Any, value: bytes) -> str:
    """Return the value of a raw element; numbers in decimal."""
    vr = item.VR if item.VR not in (None, "UN") else kind_of(item.tag)
    if vr not in BINARY:
        return decode(value).strip(" \0")
    code, size = BINARY[vr]
    count = len(value) // size
    order = "<" if item.is_little_endian else ">"
    found = struct.unpack_from(f"{order}{count}{code}", value)
    return "\\".join(str(part) for part in found)


def decode(value: bytes) -> str:
    """Return text in UTF-8 or, failing that, in Latin-1, which fits any byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


@cache
def tag_of(keyword: str) -> Any:
    """Return the tag of a keyword."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return Tag(tag_for_keyword(keyword) or 0)


@lru_cache(4096)
def kind_of(tag: int) -> str:
    """Return the kind of value that the standard gives a tag; UN for a private one."""
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def texts(ds: Any, keyword: str) -> tuple[str, ...]:
    """Return a value of several parts; () when there is none."""
    if not (told := text(ds, keyword)):  # most of what is asked for is not there
        return ()
    return tuple([part for one in told.split("\\") if (part := one.strip())])


def numbers(ds: Any, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return finite numbers; None when they are missing, malformed or not *count* of them."""
    if not (parts := texts(ds, keyword)):
        return None
    try:
        found = tuple(map(float, parts))
    except ValueError:
        return None
    finite = all(abs(value) < 1e12 for value in found)  # NaN compares false
    return found if finite and count in (None, len(found)) else None


def number(ds: Any, keyword: str, default: float) -> float:
    """Return the first of a value's numbers, or *default*."""
    told = text(ds, keyword)
    if not told:
        return default
    try:
        found = float(told)  # nearly always it is but one
    except ValueError:
        several = numbers(ds, keyword)
        return several[0] if several else default
    return found if abs(found) < 1e12 else default  # NaN compares false


def whole(ds: Any, keyword: str, default: int = 0) -> int:
    """Return a value as an integer, or *default*."""
    return int(number(ds, keyword, default))
