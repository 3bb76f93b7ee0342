"""The hospital's privacy ledger on its disk: paid before trained, the authority on what is left.

SQLite in one file, for its transactions: several processes may charge at once, and what was charged
survives a power cut. A budget belongs to the patients of a data set; another run, study,
coordinator or a restart finds the same ledger. There are no refunds: what was reserved stays spent.
"""

import csv
import fcntl
import io
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from confrere_common.errors import PrivacyError
from confrere_common.privacy import ledger
from confrere_common.privacy.accounting import Budget, Event, epsilon
from confrere_common.privacy.ledger import Release, Row, Spend
from confrere_common.storage import atomic_write, sync_folder

WAIT_S = 120.0
"""How long one process waits for another's charge."""

SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF")
SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL
) STRICT
"""


def utc_now() -> str:
    """Return the time at which a row is written."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The ledger in the file *path*; processes and threads may share it.

    Guarantee: what ``charge`` returned is on the disk, within the budget, and part of the chain; an
    edited, cut, reordered or replaced ledger charges nothing.
    """

    path: Path
    witness: Path | None = None
    """A second place, best on another disk, that keeps the head: without it, and without receipts,
    an old copy put back cannot be told from the present."""

    clock: Callable[[], str] = utc_now
    cost: Callable[[Iterable[Event], float], float] = epsilon
    """Events and delta -> epsilon."""

    def charge(self, spend: Spend, budget: Budget, promised: Budget | None = None) -> Row:
        """Reserve *spend* and return its row; the attempt is counted here.

        Guarantee: durable before it returns; PrivacyError, and nothing written, where the data set
        would go over *budget*, counting every charge there has ever been.

        Guarantee: the same where the run would go over what it *promised*, counting every charge of
        that run: it takes no more than was approved, however often a round is asked for.
        """
        with self._writing() as (database, rows):
            earlier = ledger.spends(rows, spend.data_set)
            same = [one for one in earlier if (one.run, one.round) == (spend.run, spend.round)]
            spend = replace(spend, attempt=len(same) + 1)
            events = [one.event for one in (*earlier, spend)]
            whole = self.cost(events, budget.delta)
            _must_afford(spend, whole, budget, of=f"data set '{spend.data_set}'")
            if promised is not None:
                own = [one.event for one in (*earlier, spend) if one.run == spend.run]
                part = self.cost(own, promised.delta)
                _must_afford(spend, part, promised, of="the run, which promised no more,")
            row = ledger.following(rows, spend, self.clock())
            _insert(database, row)
        self._note_head(row.number, row.digest)
        return row

    def release(self, spend: Spend, sha256: str) -> Row:
        """Note what left of a charged attempt; PrivacyError if it was not charged."""
        with self._writing() as (database, rows):
            if spend not in ledger.spends(rows):
                raise PrivacyError(
                    f"round {spend.round} was never charged: nothing may leave of it."
                )
            row = ledger.following(rows, _release(spend, sha256), self.clock())
            _insert(database, row)
        self._note_head(row.number, row.digest)
        return row

    def rows(self, receipts: Iterable[tuple[int, str]] = ()) -> list[Row]:
        """Return the whole ledger, verified against its witness and heads in others' *receipts*."""
        if not self.path.exists() and self._witnessed() is None:
            ledger.must_hold([], receipts)
            return []
        with closing(self._open()) as database, _faults_told():
            database.execute("BEGIN")  # both of its tables as they are at one moment
            rows = self._verified(database)
        ledger.must_hold(rows, receipts)
        return rows

    def head(self) -> tuple[int, str]:
        """Return number and hash of the last row, for a coordinator's receipt."""
        return ledger.head(self.rows())

    def spent(self, data_set: str, delta: float) -> float:
        """Return the epsilon of all charges to a data set so far."""
        return self.cost([spend.event for spend in ledger.spends(self.rows(), data_set)], delta)

    def as_csv(self) -> str:
        """Return every row as CSV, one column for each field of any entry."""
        rows = [_flat(row) for row in self.rows()]
        columns = list(dict.fromkeys(key for row in rows for key in row)) or ["number"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, list[Row]]]:
        """Lend the verified rows under the write lock; commit at the end, or roll all back."""
        with closing(self._open()) as database, _faults_told():
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database, self._verified(database)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        # One at a time: SQLite does not wait for another that sets the journal's mode as well.
        with _lock(self.path.with_name(f".{self.path.name}.opening")), _faults_told():
            self._create()
            _must_be_private(self.path)
            database = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
            try:
                for setting in SETTINGS:
                    database.execute(f"PRAGMA {setting}")
                database.execute(SCHEMA)
            except BaseException:
                database.close()
                raise
            return database

    def _create(self) -> None:
        if self.path.exists():
            return
        seen = self._witnessed()
        if seen is not None and seen[0] > 0:
            raise ledger.broken(f"there is none at its place, but {seen[0]} rows were witnessed")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # First of all: a ledger with rows whose witness is gone could not be told from one that
        # was killed before its first row was witnessed.
        self._note_head(0, ledger.START)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        sync_folder(self.path.parent)

    def _verified(self, database: sqlite3.Connection) -> list[Row]:
        # The witness first: read after the rows, it might tell of one that came in between.
        seen = self._witnessed()
        with _faults_told():
            stored = database.execute(
                "SELECT number, at, kind, body, previous, digest FROM ledger ORDER BY number"
            ).fetchall()
            given = database.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'ledger'"
            ).fetchone()
        rows = [_row(*one) for one in stored]
        if self.witness is not None and seen is None and rows:
            raise ledger.broken(f"its witness {self.witness} is gone")
        ledger.must_hold(rows, [] if seen is None else [seen])
        if given is not None and given[0] != len(rows):
            raise ledger.broken(f"it has {len(rows)} rows, but {given[0]} were written")
        return rows

    def _witnessed(self) -> tuple[int, str] | None:
        if self.witness is None or not self.witness.exists():
            return None
        try:
            plain = json.loads(self.witness.read_text(encoding="utf-8"))
            return int(plain["number"]), str(plain["digest"])
        except (ValueError, KeyError, TypeError):
            raise ledger.broken(f"its witness {self.witness} cannot be read") from None

    def _note_head(self, number: int, digest: str) -> None:
        if self.witness is None:
            return
        with _lock(self.witness.with_name(f".{self.witness.name}.lock")):
            seen = self._witnessed()
            if seen is None or seen[0] < number:  # another process may have come first
                said = json.dumps({"number": number, "digest": digest})
                atomic_write(self.witness, said.encode())


def _must_afford(spend: Spend, after: float, budget: Budget, *, of: str) -> None:
    if not after <= budget.epsilon:
        raise PrivacyError(
            f"round {spend.round} would bring {of} to epsilon {after:.2f}, over its budget of "
            f"{budget.epsilon:.2f}. Nothing was read or sent. Raise privacy.noise_multiplier, plan "
            "fewer rounds, or ask the hospital to raise the budget.",
            code="budget-spent",
        )


def _release(spend: Spend, sha256: str) -> Release:
    return Release(
        data_set=spend.data_set,
        run=spend.run,
        round=spend.round,
        attempt=spend.attempt,
        sha256=sha256,
    )


def _row(number: int, at: str, kind: str, body: str, previous: str, digest: str) -> Row:
    return ledger.read_row(number, at, kind, body, (previous, digest))


def _insert(database: sqlite3.Connection, row: Row) -> None:
    database.execute(
        "INSERT INTO ledger (number, at, kind, body, previous, digest) VALUES (?, ?, ?, ?, ?, ?)",
        (row.number, row.at, row.kind, row.body, row.previous, row.digest),
    )


def _flat(row: Row) -> Mapping[str, object]:
    return {
        "number": row.number,
        "at": row.at,
        "kind": row.kind,
        **asdict(row.entry),
        "previous": row.previous,
        "digest": row.digest,
    }


def _must_be_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PrivacyError(
            f"the privacy ledger {path} must be a plain file of this user alone, with mode 0600.",
            code="ledger-broken",
        )


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as fault:
        raise ledger.broken(f"SQLite says '{fault}'") from None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
