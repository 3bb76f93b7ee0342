"""What a site tells of equal images, where run and policy both let it: marks, each image's once.

Two images have one mark if their pixels are equal, stored in the same shape and depth. An image of
one level throughout (a black frame) gets none: it is the same everywhere, and nobody's.

Shapes: C channels, Z Y X voxels.
"""

from collections.abc import Iterator, Sequence

from confrere_client.ingest.working.facts import digest_of
from confrere_client.source import Record, UnreadableImage
from confrere_common.describe import MOST_TEXT, Describe
from confrere_common.marks import (
    MARK_BYTES,
    MOST_MARKS,
    mark_of,
    marks_among,
    packed_marks,
    salt_of,
)


def marks_that_leave(
    records: Sequence[Record], asked: Describe, *, allowed: bool, run_id: str, most_bytes: int
) -> bytes:
    """Return what leaves, empty unless the run asks for it and the site's policy allows it.

    Guarantee: at most *most_bytes* with the description beside it, and nothing that could be told
    of an image by somebody without that very image.
    """
    if not (asked.duplicates and allowed):
        return b""
    salt = salt_of(run_id)
    at_most = min(MOST_MARKS, (most_bytes - MOST_TEXT - 1) // MARK_BYTES)
    told = marks_among((mark_of(digest, salt) for digest in _digests(records)), at_most)
    return b"" if told is None else packed_marks(told)


def _digests(records: Sequence[Record]) -> Iterator[str]:
    """Yield the digest of each image that can be read and shows anything."""
    for record in records:
        known = record.facts.get("digest")
        if known and record.facts.get("std"):
            yield known
            continue
        try:
            pixels_CZYX = record.decode()
        except UnreadableImage:
            continue
        if pixels_CZYX.min() < pixels_CZYX.max():
            yield digest_of(pixels_CZYX)
