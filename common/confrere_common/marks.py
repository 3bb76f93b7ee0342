"""Marks: salted hashes by which sites can find equal images, and the only layout they travel in.

A mark is HMAC-SHA-256 of the digest of an image's decoded pixels, keyed by the run and cut to 16
bytes (RFC 2104, https://doi.org/10.17487/RFC2104). It hides an image from those who do not have
it, and from nobody else: who has the image, and knows the run, computes its mark.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from confrere_common.errors import ExchangeError

MARK_BYTES = 16
MOST_MARKS = 180_000
"""Marks that a site tells at most; of more images it tells of a sample. So many pass the smallest
limit that a server may have (``body_limit_mb``: 3)."""

MOST_MARKS_BYTES = 1 + MARK_BYTES * MOST_MARKS
MOST_HALVINGS = 40


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What one site tells, each mark once and in ascending order, which says nothing of images."""

    marks: tuple[bytes, ...]
    halvings: int = 0
    """Bits, 0 in every mark that is told: it is a sample of one image in 2 to this power, the same
    sample at all sites."""


def salt_of(run_id: str) -> bytes:
    """Return the key of a run's marks, so that those of two runs have nothing in common."""
    return hashlib.sha256(b"confrere marks\0" + run_id.encode()).digest()


def mark_of(digest: str, salt: bytes) -> bytes:
    """Return the mark of an image whose pixels have *digest*, in hexadecimal digits."""
    return hmac.digest(salt, bytes.fromhex(digest), hashlib.sha256)[:MARK_BYTES]


def marks_among(found: Iterable[bytes], at_most: int) -> Marks | None:
    """Return *at_most* marks or fewer: all, or those that begin with as few 0 bits as that takes.

    None where *at_most* is too small to hold even a sample.
    """
    left = set(found)
    halvings = 0
    while len(left) > max(at_most, 0) and halvings < MOST_HALVINGS:
        halvings += 1
        left = {mark for mark in left if _begins(mark, halvings)}
    told = Marks(marks=tuple(sorted(left)), halvings=halvings)
    return told if len(left) <= at_most else None


def packed_marks(told: Marks) -> bytes:
    """Return what leaves a site: one byte that names the sample, then the marks."""
    return bytes([told.halvings]) + b"".join(told.marks)


def read_marks(content: bytes, images: int) -> Marks:
    """Return the marks in *content*, of a site with *images*; ExchangeError unless all is sound."""
    count, left_over = divmod(len(content) - 1, MARK_BYTES)
    if left_over or count < 0 or not count <= min(images, MOST_MARKS):
        raise ExchangeError(f"{len(content)} bytes are no marks of {images} images.")
    cut = range(1, len(content), MARK_BYTES)
    told = Marks(marks=tuple(content[at : at + MARK_BYTES] for at in cut), halvings=content[0])
    if told.halvings > MOST_HALVINGS or not all(one < two for one, two in pairwise(told.marks)):
        raise ExchangeError("its marks are not in order, or one is told twice.")
    if not all(_begins(mark, told.halvings) for mark in told.marks):
        raise ExchangeError(f"its marks are no sample of one image in {2**told.halvings}.")
    return told


def _begins(mark: bytes, halvings: int) -> bool:
    return int.from_bytes(mark[: math.ceil(MOST_HALVINGS / 8)]) >> (MOST_HALVINGS - halvings) == 0
