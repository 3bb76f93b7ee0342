"""A site's privacy account as a value: what was spent and what was released, in a hash chain.

Each row holds the hash of the one before, so whoever changes, moves or takes out a row changes
every hash after it. Rows cut off at the end, or an old copy put in place of the ledger, show only
against a *head* (number and hash of the last row) that somebody else keeps: a witness.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from confrere_common.errors import PrivacyError
from confrere_common.privacy.accounting import Event

START = "0" * 64
"""The hash before the first row."""


@dataclass(frozen=True, kw_only=True)
class Spend:
    """What a round was charged, in full, before its first gradient."""

    data_set: str
    """Whose budget it is: the patients of one data set, whatever run or coordinator asks."""

    study: str
    run: str
    """Digest of the run."""

    round: int
    attempt: int
    """1, 2, ...: a round that is trained anew is paid anew."""

    rate: float
    noise: float
    steps: int

    @property
    def event(self) -> Event:
        """Return what accounting makes of it; PrivacyError if that is nonsense."""
        return Event(rate=self.rate, noise=self.noise, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class Release:
    """What left of a paid round: these bytes may be sent again, any others must be paid."""

    data_set: str
    run: str
    round: int
    attempt: int
    sha256: str


Entry: TypeAlias = Spend | Release

KINDS: Mapping[str, type[Entry]] = {"spend": Spend, "release": Release}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the ledger."""

    number: int
    at: str
    entry: Entry
    previous: str
    digest: str

    @property
    def kind(self) -> str:
        """Return which of KINDS it is."""
        return next(name for name, kind in KINDS.items() if isinstance(self.entry, kind))

    @property
    def body(self) -> str:
        """Return the entry as canonical JSON."""
        return _canonical(asdict(self.entry))


def following(rows: Sequence[Row], entry: Entry, at: str) -> Row:
    """Return *entry* as the row after *rows*."""
    number, previous = len(rows) + 1, rows[-1].digest if rows else START
    return _linked(number, at, entry, previous)


def read_row(number: int, at: str, kind: str, body: str, hashes: tuple[str, str]) -> Row:
    """Return a stored row; PrivacyError when it is not what was written."""
    try:
        entry = KINDS[kind](**json.loads(body))
        row = Row(number=number, at=at, entry=entry, previous=hashes[0], digest=hashes[1])
        whole = row.body == body and _linked(number, at, entry, hashes[0]) == row
    except (KeyError, TypeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise broken(f"row {number} is not as it was written")
    return row


def must_hold(rows: Sequence[Row], witnessed: Iterable[tuple[int, str]] = ()) -> None:
    """Raise PrivacyError unless *rows* are one unbroken chain that holds every *witnessed* head.

    Guarantee: no row that was edited, added, moved or taken out passes; neither does a chain that
    was cut or rolled back to before a witnessed head.
    """
    previous = START
    for place, row in enumerate(rows, 1):
        if row.number != place or row.previous != previous:
            raise broken(f"row {row.number} does not follow the row before it")
        if _linked(row.number, row.at, row.entry, row.previous).digest != row.digest:
            raise broken(f"row {row.number} is not as it was written")
        previous = row.digest
    for number, digest in witnessed:
        if number > len(rows):
            raise broken(
                f"it has {len(rows)} rows, but {number} were witnessed: it was rolled back"
            )
        if digest != (rows[number - 1].digest if number else START):
            raise broken(f"row {number} is not the one that was witnessed")


def head(rows: Sequence[Row]) -> tuple[int, str]:
    """Return number and hash of the last row."""
    return (rows[-1].number, rows[-1].digest) if rows else (0, START)


def spends(rows: Iterable[Row], data_set: str | None = None) -> list[Spend]:
    """Return the charges to one data set, or to all."""
    found = (row.entry for row in rows if isinstance(row.entry, Spend))
    return [spend for spend in found if data_set in (None, spend.data_set)]


def broken(what: str) -> PrivacyError:
    """Return the error for a ledger that cannot be trusted."""
    return PrivacyError(
        f"the privacy ledger cannot be trusted: {what}. Nothing is trained privately until "
        "somebody has compared it with its witness and a backup; keep the file.",
        code="ledger-broken",
    )


def _linked(number: int, at: str, entry: Entry, previous: str) -> Row:
    kind = "spend" if isinstance(entry, Spend) else "release"
    content: dict[str, Any] = {"number": number, "at": at, "kind": kind, "previous": previous}
    text = _canonical({**content, "entry": asdict(entry)})
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Row(number=number, at=at, entry=entry, previous=previous, digest=digest)


def _canonical(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
