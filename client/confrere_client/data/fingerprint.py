"""The fingerprint of files: bytes that change with what they hold and what is known of them."""

import json
from collections.abc import Iterator
from pathlib import Path

from confrere_client.source import Record

CHUNK_BYTES = 1 << 20


def known(record: Record) -> bytes:
    """Return all that is known of an image but its pixels."""
    fields = (record.name, record.patient, record.site, record.split, record.label)
    return json.dumps(fields).encode()


def content(path: Path) -> Iterator[bytes]:
    """Yield what a file holds, its length first; or that it cannot be read."""
    try:
        with path.open("rb") as file:
            yield b"%d:" % path.stat().st_size
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError:
        yield b"unreadable"
