"""Files that only the holder of a key can read: AES-256-GCM in frames, each bound to its place.

The key for checkpoints is optional and comes from a systemd credential, a file or the environment.
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.pack import View, cut, length

FRAME = 4 << 20
"""Bytes that are encrypted at once: memory beside the content stays at that."""

MAGIC = b"confrere sealed 1\n"
"""How a file begins that is encrypted, where others are not."""

KEY_BYTES, TAG, NONCE = 32, 16, 12

CREDENTIAL = "confrere.key"
"""Name of the systemd credential (LoadCredential=confrere.key:...)."""

KEY_FILE, KEY = "CONFRERE_KEY_FILE", "CONFRERE_KEY"
"""Names in the environment: of a file that holds the key, and of the key itself."""


def key_at_rest() -> bytes | None:
    """Return the key for checkpoints, None when none is given; ConfigError for one that is none.

    It is 32 bytes as 64 hexadecimal digits. The first that is there counts: the credential, the
    file, the variable.
    """
    for place, read in _places():
        try:
            key = bytes.fromhex(read().strip())
        except (OSError, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            fault = (
                f"{place} holds no key of 64 hexadecimal digits. Make one: openssl rand -hex 32. "
                "What was encrypted under another is lost without that one."
            )
            raise ConfigError([fault], "encryption at rest")
        return key
    return None


def _places() -> Iterator[tuple[str, Callable[[], str]]]:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and (credential := Path(folder) / CREDENTIAL).exists():
        yield f"the credential {CREDENTIAL}", credential.read_text
    if KEY_FILE in os.environ:
        yield KEY_FILE, Path(os.environ[KEY_FILE]).read_text
    if KEY in os.environ:
        yield KEY, lambda: os.environ[KEY]


def sealed(content: bytes | Sequence[View], key: bytes, name: str) -> Iterator[bytes]:
    """Yield a random salt and the length, then frame after frame, bound to *name* and its place.

    Of *content* in several parts, no more than a frame is ever copied.
    """
    parts = [content] if isinstance(content, bytes) else content
    cipher, salt, size = AESGCM(key), secrets.token_bytes(NONCE - 4), length(parts)
    yield salt + size.to_bytes(8, "big")
    frames: Iterable[Sequence[View]] = cut(parts, FRAME) if size else [[b""]]
    for number, frame in enumerate(frames):
        nonce = salt + number.to_bytes(4, "big")
        yield cipher.encrypt(nonce, b"".join(frame), _bound(name, number, size))


def opened(file: BinaryIO, key: bytes, name: str) -> bytearray:
    """Return what was sealed as *name*.

    Guarantee: CheckpointError for anything that was changed, cut short, sealed under another key or
    put under another name.
    """
    cipher = AESGCM(key)
    head = file.read(NONCE - 4 + 8)
    if len(head) != NONCE + 4:
        raise CheckpointError("a sealed file was cut short")
    salt, length = head[: NONCE - 4], int.from_bytes(head[NONCE - 4 :], "big")
    content, number, at = _room(file, length), 0, 0
    try:
        while at < length or number == 0:
            frame = file.read(FRAME + TAG)
            nonce = salt + number.to_bytes(4, "big")
            clear = cipher.decrypt(nonce, frame, _bound(name, number, length))
            content[at : at + len(clear)] = clear
            at += len(clear)
            number += 1
    except (InvalidTag, ValueError):
        raise CheckpointError(
            "a sealed file was altered or cut short, or has another key"
        ) from None
    return content


def _room(file: BinaryIO, length: int) -> bytearray:
    """Return memory for what is read; none when the length is not that of the file."""
    here = file.tell()
    left = file.seek(0, os.SEEK_END) - here
    file.seek(here)
    return bytearray(length if length <= left else 0)


def _bound(name: str, number: int, length: int) -> bytes:
    return f"confrere sealed {name} {number} {length}".encode()
