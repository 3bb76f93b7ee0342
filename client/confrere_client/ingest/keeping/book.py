"""The private book of a data set: every file met, what it holds, what became of it. It holds names.

One SQLite file, 0600, in the folder beside the data set that never leaves. What it says is done is
on the disk: pixels are flushed before it is told of them. Text from outside is kept as bytes, since
names of files need not be UTF-8.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confrere_client.ingest.finding.walk import Found, Missed
from confrere_client.ingest.keeping.shards import disk_fault
from confrere_common.errors import DataError

VERSION = 1

TABLES = """
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files(
  id INTEGER PRIMARY KEY, place BLOB UNIQUE, path BLOB, size INT, mtime INT,
  archive INT, depth INT, seen INT, state TEXT, reader TEXT, kind TEXT, detail TEXT);
CREATE INDEX IF NOT EXISTS files_state ON files(state, id);
CREATE INDEX IF NOT EXISTS files_archive ON files(archive);
CREATE TABLE IF NOT EXISTS parts(
  file INT, grp BLOB, ord TEXT, patient BLOB, modality TEXT, nbytes INT, idx INT, extra TEXT,
  names TEXT);
CREATE INDEX IF NOT EXISTS parts_file ON parts(file);
CREATE INDEX IF NOT EXISTS parts_grp ON parts(grp);
CREATE TABLE IF NOT EXISTS groups(
  grp BLOB PRIMARY KEY, mark TEXT, state TEXT, kind TEXT, detail TEXT, files INT, file INT,
  patient BLOB, unfit TEXT);
CREATE TABLE IF NOT EXISTS exams(
  key TEXT PRIMARY KEY, grp BLOB, shard TEXT, start INT, nbytes INT, digest TEXT, look INT,
  dims INT, patient BLOB, facts TEXT);
CREATE INDEX IF NOT EXISTS exams_grp ON exams(grp);
CREATE TABLE IF NOT EXISTS names(name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told(
  place BLOB PRIMARY KEY, patient BLOB, site TEXT, split TEXT, label TEXT, mask BLOB, boxes TEXT)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS persons(place BLOB PRIMARY KEY, sex TEXT, age TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS told_mask ON told(mask);
CREATE TABLE IF NOT EXISTS masks(place BLOB PRIMARY KEY, mask BLOB, how TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS masks_mask ON masks(mask);
CREATE TABLE IF NOT EXISTS looked(file INTEGER PRIMARY KEY, size INT, mtime INT, labels TEXT);
CREATE TEMP TABLE pending(
  first INT, grp BLOB, mark TEXT, files INT, PRIMARY KEY(first, grp)) WITHOUT ROWID;
CREATE INDEX temp.pending_grp ON pending(grp);
"""
"""masks: which image has which label map, and who says so; one that is its own has no image, and
``how`` says why. looked.labels: labels, colour or '', for what is called a label map.
persons: what may be kept of a table's sex and age, never what it says. pending.first: number of the
first file.

files.state: new, read, skipped, packed (an archive yet to be unpacked), archive."""


RETRIED = (
    "may not be read", "cannot be opened", "takes too long", "crashed the reader",
    "needs too much memory",
)  # fmt: skip
"""Reasons that may have passed by the next turn, though the file is the same."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file as the book has it."""

    id: int
    path: Path
    place: str
    size: int
    mtime_ns: int
    depth: int


def blob(text: str) -> bytes:
    """Return *text* as the book keeps it; a path may hold lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def text_of(kept: bytes | None) -> str:
    """Return what ``blob`` kept."""
    return (kept or b"").decode("utf-8", "surrogatepass")


class Book:
    """Opened by one process at a time. Changes count when ``keep`` is called, then at once."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self.sql = sqlite3.connect(path, isolation_level=None)
        with self._disk():
            self.sql.execute("PRAGMA journal_mode = WAL")
            self.sql.executescript(TABLES)
            self.sql.execute("BEGIN")
        if int(self.fact("version", str(VERSION))) != VERSION:
            self.close()
            raise DataError("the data set was prepared by another version: prepare it anew.")
        self.turn = int(self.fact("turn", "0")) + 1
        self.set_fact("turn", str(self.turn))
        self.set_fact("version", str(VERSION))

    def close(self) -> None:
        """Give up what was not kept."""
        self.sql.close()

    def keep(self) -> None:
        """Bring everything until now to the disk, whole or not at all."""
        with self._disk():
            self.sql.execute("COMMIT")
            self.sql.execute("BEGIN")

    def fact(self, name: str, otherwise: str = "") -> str:
        """Return what is noted under *name*."""
        row = self.sql.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else otherwise

    def set_fact(self, name: str, value: str) -> None:
        """Note something of the whole."""
        self.run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def run(self, command: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Carry out one command; DiskFault when the disk is full."""
        try:
            return self.sql.execute(command, values)
        except sqlite3.OperationalError as fault:
            raise _fault_of(fault) from None

    def run_all(self, command: str, values: Iterable[Sequence[Any]]) -> None:
        """Carry out one command for each of *values*."""
        with self._disk():
            self.sql.executemany(command, values)

    # files -----------------------------------------------------------------------------------

    def meet(self, found: Found, archive: int = 0, depth: int = 0) -> None:
        """Note a file; unless it is as it was when it was read, it is to be read anew."""
        known = self.run(
            "SELECT id, size, mtime, state, kind FROM files WHERE place = ?", (blob(found.place),)
        ).fetchone()
        same = known and tuple(known[1:3]) == (found.size, found.mtime_ns)
        if same and known[4] not in RETRIED:
            path = blob(str(found.path))
            self.run(
                "UPDATE files SET seen = ?, path = ? WHERE id = ?", (self.turn, path, known[0])
            )
            if known[3] == "archive" and not archive:
                self._see_members(known[0])
            return
        if known:
            self.forget(known[0])
        self._enter(found.place, str(found.path), found, archive, depth)

    def miss(self, missed: Missed, archive: int = 0) -> None:
        """Note what cannot be taken, and why."""
        known = self.run("SELECT id FROM files WHERE place = ?", (blob(missed.place),)).fetchone()
        if known:
            self.forget(known[0])
        self._enter(missed.place, "", missed, archive, 0)
        if missed.kind in RETRIED:  # a folder that is barred today has not lost its files
            low, high = _below(missed.place)
            self.run(
                "UPDATE files SET seen = ? WHERE place > ? AND place < ?", (self.turn, low, high)
            )

    def files(self, state: str) -> Iterator[Entry]:
        """Yield the files of a *state* as they were met; meanwhile states may be changed."""
        last = 0
        while True:
            rows = self.run(
                "SELECT id, path, place, size, mtime, depth FROM files WHERE state = ? AND id > ? "
                "ORDER BY id LIMIT 500",
                (state, last),
            ).fetchall()
            if not rows:
                return
            yield from map(_entry, rows)
            last = rows[-1][0]

    def count(self, state: str) -> int:
        """Return how many files are of a *state*."""
        return int(self.run("SELECT count(*) FROM files WHERE state = ?", (state,)).fetchone()[0])

    def archives_unfinished(self) -> list[Entry]:
        """Return the archives of which a member was not yet looked into."""
        rows = self.run(
            "SELECT id, path, place, size, mtime, depth FROM files WHERE state = 'archive' AND id "
            "IN (SELECT archive FROM files WHERE state IN ('new', 'packed'))"
        )
        return [_entry(row) for row in rows.fetchall()]

    def archives_wanted(self) -> list[Entry]:
        """Return the archives in which exams yet to be read lie and that are not unpacked now."""
        rows = self.run(
            "WITH RECURSIVE up(id) AS ("
            "SELECT DISTINCT f.archive FROM pending n JOIN parts p ON p.grp = n.grp JOIN files f "
            "ON f.id = p.file WHERE f.archive != 0 UNION "
            "SELECT DISTINCT m.archive FROM pending n JOIN parts p ON p.grp = n.grp JOIN files f "
            "ON f.id = p.file JOIN masks o ON o.place = f.place JOIN files m ON m.place = o.mask "
            "WHERE m.archive != 0 UNION "
            "SELECT f.archive FROM files f JOIN up u ON f.id = u.id WHERE f.archive != 0) "
            "SELECT f.id, f.path, f.place, f.size, f.mtime, f.depth, "
            "(SELECT path FROM files m WHERE m.archive = f.id AND m.state != 'skipped' LIMIT 1) "
            "FROM files f JOIN up u ON u.id = f.id ORDER BY f.depth"
        )
        return [_entry(row) for row in rows.fetchall() if not Path(text_of(row[6])).exists()]

    def outermost(self, file: int) -> tuple[int, int] | None:
        """Return number and size of the outermost archive that a file lies in, or of the file.

        None where it was forgotten.
        """
        row = self.run(
            "WITH RECURSIVE up(id, archive, size) AS (SELECT id, archive, size FROM files WHERE "
            "id = ? UNION SELECT f.id, f.archive, f.size FROM files f JOIN up u ON f.id = "
            "u.archive) SELECT id, size FROM up WHERE archive = 0",
            (file,),
        ).fetchone()
        return (int(row[0]), int(row[1])) if row else None

    def settle_file(self, file: int, state: str, kind: str = "", detail: str = "") -> None:
        """Note what became of a file."""
        self.run(
            "UPDATE files SET state = ?, kind = ?, detail = ? WHERE id = ?",
            (state, kind, detail, file),
        )

    def hold(self, file: int, reader: str, parts: Iterable[Mapping[str, Any]]) -> None:
        """Note which parts a file holds and who reads it."""
        path, place = self.run("SELECT path, place FROM files WHERE id = ?", (file,)).fetchone()
        self.run("UPDATE files SET state = 'read', reader = ? WHERE id = ?", (reader, file))
        self.run("DELETE FROM parts WHERE file = ?", (file,))
        for part in parts:
            # a file's own path in a group would change with where an archive is unpacked
            group = part["group"].replace(text_of(path), f"file:{text_of(place)}")
            self.run(
                "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    file, blob(group), json.dumps(part["order"]), blob(part["patient"]),
                    part["modality"], part["nbytes"], part["index"], json.dumps(part["extra"]),
                    json.dumps(part["names"]),
                ),
            )  # fmt: skip
            self.name_all([*part["names"], part["patient"]])

    def name_all(self, names: Iterable[str]) -> None:
        """Note identifiers that no produced byte may hold."""
        rows = [(blob(name),) for name in names if name]
        if rows:
            self.run_all("INSERT OR IGNORE INTO names VALUES (?)", rows)

    def try_skipped_again(self) -> None:
        """Let every file that no reader took be looked into again."""
        self.run("UPDATE files SET state = 'new', kind = '' WHERE state = 'skipped' AND path != ''")
        self.run("DELETE FROM groups WHERE state = 'skipped'")

    def forget_members(self, archive: int) -> None:
        """Take what was unpacked from an archive out of the book."""
        members = self.run("SELECT id FROM files WHERE archive = ?", (archive,)).fetchall()
        for (member,) in members:
            self.forget(member)

    def forget(self, file: int) -> None:
        """Take a file out of the book, with what it held and what was unpacked from it."""
        self.forget_members(file)
        self.run("DELETE FROM parts WHERE file = ?", (file,))
        self.run("DELETE FROM files WHERE id = ?", (file,))

    def drop_gone(self, roots: Sequence[str]) -> int:
        """Forget what stood below *roots* and was not met in this turn; return how many files."""
        gone = 0
        for root in (root.rstrip("/") for root in roots):
            low, high = _below(root)
            rows = self.run(
                "SELECT id FROM files WHERE (place = ? OR (place > ? AND place < ?) OR "
                "substr(place, 1, ?) = ?) AND seen < ?",
                (blob(root), low, high, len(low) + 1, blob(f"{root}!/"), self.turn),
            ).fetchall()
            for (file,) in rows:
                self.forget(file)
            gone += len(rows)
        return gone

    def _see_members(self, archive: int) -> None:
        self.run(
            "WITH RECURSIVE inside(id) AS (SELECT id FROM files WHERE archive = ? UNION "
            "SELECT f.id FROM files f JOIN inside i ON f.archive = i.id) "
            "UPDATE files SET seen = ? WHERE id IN inside",
            (archive, self.turn),
        )

    def _enter(self, place: str, path: str, item: Found | Missed, archive: int, depth: int) -> None:
        new = isinstance(item, Found)
        size, mtime = (item.size, item.mtime_ns) if isinstance(item, Found) else (0, 0)
        self.run(
            "INSERT INTO files(place, path, size, mtime, archive, depth, seen, state, kind, "
            "detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
            (
                blob(place), blob(path), size, mtime, archive, depth, self.turn,
                "new" if new else "skipped", item.kind if isinstance(item, Missed) else "",
            ),
        )  # fmt: skip

    # skips -----------------------------------------------------------------------------------

    def skips(self) -> Iterator[tuple[str, str, str]]:
        """Yield place, reason and detail of every file that is not in the data set."""
        rows = self.run(
            "SELECT place, kind, detail FROM files WHERE kind != '' UNION ALL "
            "SELECT f.place, g.kind, g.detail FROM groups g JOIN parts p ON p.grp = g.grp "
            "JOIN files f ON f.id = p.file WHERE g.state = 'skipped' UNION ALL "
            "SELECT place, how, '' FROM masks WHERE place = mask"
        )
        for place, kind, detail in rows:
            yield text_of(place), kind, detail or ""

    def unfit(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield place, and why how many of its exams were not taken, of files that gave exams."""
        for place, found in self.run(
            "SELECT f.place, g.unfit FROM groups g JOIN files f ON f.id = g.file "
            "WHERE g.unfit NOT IN ('', '{}')"
        ):
            yield text_of(place), json.loads(found)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as fault:
            raise _fault_of(fault) from None


def _fault_of(fault: sqlite3.OperationalError) -> Exception:
    """Return what to raise: what the disk did, as the operator is told it; else our own fault."""
    name = getattr(fault, "sqlite_errorname", "")
    if not (name.startswith(("SQLITE_IOERR", "SQLITE_FULL")) or "readonly" in str(fault)):
        return fault
    return disk_fault(name == "SQLITE_FULL" or "WRITE" in name)


def _below(folder: str) -> tuple[bytes, bytes]:
    """Return between which places everything in *folder* stands."""
    return blob(f"{folder}/"), blob(f"{folder}0")  # '0' follows '/'


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(
        id=row[0],
        path=Path(text_of(row[1])),
        place=text_of(row[2]),
        size=row[3],
        mtime_ns=row[4],
        depth=row[5],
    )
