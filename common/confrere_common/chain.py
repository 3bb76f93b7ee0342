"""An append-only log in which every row is signed and holds the hash of the row before it.

One row is one line of JSON: its number (from 1), UTC time, event, facts, the hash of the row
before, its own hash, and an Ed25519 signature. The *head* of a log is its length and last hash;
a head that somebody else keeps (a *witness*) fixes every row up to it.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confrere_common.errors import CheckpointError
from confrere_common.storage import sync_folder

Fact: TypeAlias = str | int | float | bool | None

START = "0" * 64
"""The head of an empty log."""

TORN = "a line torn by a crash was set aside"
"""Event of the row that says so."""

PURPOSE = b"confrere audit row\n"
"""Stands before what is signed, so that a row's signature can pass for nothing else."""

NO_WITNESS: Mapping[int, str] = MappingProxyType({})

BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the log."""

    sequence: int
    at: str
    event: str
    facts: Mapping[str, Fact]
    previous: str
    hash: str
    signature: str

    def line(self) -> bytes:
        """Return the only way in which this row may be written."""
        return _canonical(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What ``verify`` found: the head as it stands, and one sentence for each fault."""

    length: int
    head: str
    faults: tuple[str, ...]


def utc_now() -> datetime:
    """Return the time at which a row is written."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Chain:
    """The log in the file *path*, signed with *key*; processes and threads may share it.

    Guarantee: what ``append`` returned is on the disk; a line that a crash tore is kept in a file
    beside the log and noted in a row of its own, never dropped in silence.
    """

    path: Path
    key: Ed25519PrivateKey
    clock: Callable[[], datetime] = utc_now

    def append(self, event: str, /, **facts: Fact) -> str:
        """Add a row and return the new head; CheckpointError if the end of the log was altered."""
        with _locked(self.path) as file:
            last, torn = _tail(file)
            length, head = self._end(last)
            rows: list[Row] = []
            if torn:
                seen = self._set_aside(torn)
                rows.append(self._row(length + 1, head, TORN, seen))
                head = rows[-1].hash
            rows.append(self._row(length + len(rows) + 1, head, event, facts))
            _write(file, rows, over=len(torn))
        if length == 0:
            sync_folder(self.path.parent)
        return rows[-1].hash

    def head(self) -> tuple[int, str]:
        """Return how many rows the log has and the hash of the last."""
        if not self.path.exists():
            return 0, START
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return self._end(_tail(file)[0])

    def _end(self, last: bytes | None) -> tuple[int, str]:
        if last is None:
            return 0, START
        row = _read(last)
        if row is None or not _is_signed(row, self.key.public_key()):
            raise CheckpointError(
                f"the last row of {self.path} is not as it was written, so nothing is added to it: "
                "see 'confrere audit verify', keep the file, and move it away to begin another."
            )
        return row.sequence, row.hash

    def _row(self, sequence: int, previous: str, event: str, facts: Mapping[str, Fact]) -> Row:
        content = {
            "sequence": sequence,
            "at": self.clock().astimezone(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "facts": dict(facts),
            "previous": previous,
        }
        hashed = _hash(content)
        signature = self.key.sign(PURPOSE + bytes.fromhex(hashed)).hex()
        return Row(**content, hash=hashed, signature=signature)  # type: ignore[arg-type]

    def _set_aside(self, torn: bytes) -> Mapping[str, Fact]:
        beside = self.path.with_name(f"{self.path.name}.torn")
        with beside.open("ab") as file:
            file.write(torn + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(beside.parent)
        return {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}


def verify(
    path: Path, public_key: Ed25519PublicKey, witnessed: Mapping[int, str] = NO_WITNESS
) -> Checked:
    """Check the whole log against *public_key* and the heads that others *witnessed*.

    Guarantee: a row that was edited (by a single byte), added, moved, or taken out before another
    is told; rows cut off at the end are told up to the longest witnessed head. Past that head
    a cut cannot be seen, and whoever holds the private key can write other rows.
    """
    try:
        content = path.read_bytes()
    except OSError as fault:
        return Checked(length=0, head=START, faults=(f"cannot be read: {fault.strerror}.",))
    *lines, torn = content.split(b"\n")
    rows = [_read(line) for line in lines]
    faults = [*_faults_of_rows(rows, public_key)]
    if torn:
        faults.append(f"ends in the middle of a row, {len(torn)} bytes after row {len(rows)}.")
    faults += _faults_of_witnesses(rows, witnessed)
    head = rows[-1].hash if rows and rows[-1] else START
    return Checked(length=len(rows), head=head, faults=tuple(faults))


def _faults_of_rows(rows: list[Row | None], public_key: Ed25519PublicKey) -> Iterator[str]:
    sequence, head = 0, START
    for number, row in enumerate(rows, 1):
        if row is None:
            yield f"line {number} is not a row as it was written."
            sequence += 1
            continue
        if row.sequence != sequence + 1 or row.previous != head:
            yield f"line {number} holds row {row.sequence}, which does not follow the line before."
        if not _is_signed(row, public_key):
            yield f"line {number} was altered, or signed by another key."
        sequence, head = row.sequence, row.hash


def _faults_of_witnesses(rows: list[Row | None], witnessed: Mapping[int, str]) -> Iterator[str]:
    for length, head in sorted(witnessed.items()):
        if length > len(rows):
            yield f"has {len(rows)} rows, but a witness saw {length}: the end was cut off."
        elif length and getattr(rows[length - 1], "hash", None) != head:
            yield f"row {length} is not the one that a witness saw: the log was rewritten."


def _is_signed(row: Row, public_key: Ed25519PublicKey) -> bool:
    content = asdict(row)
    del content["hash"], content["signature"]
    if _hash(content) != row.hash:
        return False
    try:
        public_key.verify(bytes.fromhex(row.signature), PURPOSE + bytes.fromhex(row.hash))
    except InvalidSignature:
        return False
    return True


def _read(line: bytes) -> Row | None:
    # Only the one canonical form is a row: so a changed space or a doubled key is an edit too.
    try:
        row = Row(**json.loads(line))
        hashes = f"{row.previous}{row.hash}{row.signature}"
        whole = type(row.sequence) is int and row.line() == line
    except (ValueError, TypeError, RecursionError):
        return None
    return row if whole and re.fullmatch("[0-9a-f]{256}", hashes) else None


def _hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _tail(file: BinaryIO) -> tuple[bytes | None, bytes]:
    """Return the last whole line (None if there is none) and what a crash left after it."""
    start, block = file.seek(0, os.SEEK_END), b""
    while start and block.count(b"\n") < 2:
        step = min(BLOCK, start)
        start -= step
        file.seek(start)
        block = file.read(step) + block
    whole, newline, torn = block.rpartition(b"\n")
    return (whole.rpartition(b"\n")[2] if newline else None), torn


def _write(file: BinaryIO, rows: list[Row], *, over: int) -> None:
    # Written over the torn bytes, then cut: a crash in between leaves torn bytes again.
    start = file.seek(-over, os.SEEK_END)
    content = b"".join(row.line() + b"\n" for row in rows)
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
    file.truncate(start + len(content))
    os.fsync(file.fileno())
