"""Exams as the book has them: which files make one, which are yet to be read, what came of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from confrere_client.ingest.keeping.book import RETRIED, Book, blob, text_of
from confrere_client.ingest.keeping.keys import key_of

_PARTS = """
SELECT p.grp, f.place, f.size, f.mtime, p.idx, m.place, m.size, m.mtime, f.id, g.mark, o.how
FROM parts p JOIN files f ON f.id = p.file LEFT JOIN masks o ON o.place = f.place
LEFT JOIN files m ON m.place = o.mask AND m.state = 'read' LEFT JOIN groups g ON g.grp = p.grp
WHERE NOT EXISTS (SELECT 1 FROM masks t WHERE t.mask = f.place)
ORDER BY p.grp, f.place, p.idx
"""
_COLUMNS = "f.id, f.path, f.reader, p.ord, p.modality, p.nbytes, p.idx, p.extra, p.patient, p.names"
_OF_FILE = f"SELECT {_COLUMNS} FROM parts p JOIN files f ON f.id = p.file WHERE p.file = ?"  # noqa: S608
_OF_PENDING = f"""
SELECT {_COLUMNS}, n.grp, n.mark, n.files FROM pending n JOIN parts p ON p.grp = n.grp
JOIN files f ON f.id = p.file WHERE (n.first, n.grp) > (?, ?) AND (n.first, n.grp) <= (?, ?)
ORDER BY n.first, n.grp
"""  # noqa: S608  (only columns)
_MASK = """
SELECT m.id, o.how FROM masks o JOIN files f ON f.place = o.place
JOIN files m ON m.place = o.mask AND m.state = 'read' WHERE f.id = ?
"""
_GONE = """
SELECT g.grp FROM groups g WHERE NOT EXISTS (
  SELECT 1 FROM parts p JOIN files f ON f.id = p.file WHERE p.grp = g.grp
  AND NOT EXISTS (SELECT 1 FROM masks t WHERE t.mask = f.place))
"""
TABLE = "table"
"""masks.how: a catalog says whose mask it is."""

PAGE_FILES = 256
"""Files whose groups are fetched at once; more only where one group has more."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The parts of one exam (or of the exams of one file), in order."""

    name: bytes
    reader: str
    parts: tuple[Mapping[str, Any], ...]
    """As ``Part`` has them."""

    file: int
    """The first of its files, by which a table may tell of it."""

    modality: str
    patients: frozenset[str]
    names: tuple[str, ...]
    nbytes: int
    mark: str = ""
    """What changes with its files."""

    mask: Mapping[str, Any] | None = None
    """Reader and parts of the first file's mask, and whether a catalog names it."""


def find_pending(book: Book) -> int:
    """Mark the exams whose files are not those that were read; drop those that have none any more.

    Return how many are yet to be read.
    """
    book.run("DELETE FROM pending")
    marks = ", ".join("?" * len(RETRIED))
    book.run(f"DELETE FROM groups WHERE kind IN ({marks})", RETRIED)  # noqa: S608  (only marks)
    # a killed turn's: some exams of a group that was not finished
    book.run("DELETE FROM exams WHERE grp NOT IN (SELECT grp FROM groups)")
    groups = groupby(book.run(_PARTS), key=lambda row: row[0])
    marked = (_marked(name, parts) for name, parts in groups)
    new = (mark[:4] for mark in marked if mark[2] != mark[4])
    while some := list(islice(new, PAGE_FILES)):
        book.run_all("INSERT INTO pending VALUES (?, ?, ?, ?)", some)
    for table in ("exams", "groups"):
        book.run(f"DELETE FROM {table} WHERE grp IN (SELECT grp FROM pending)")  # noqa: S608
    for (name,) in book.run(_GONE).fetchall():
        book.run("DELETE FROM exams WHERE grp = ?", (name,))
        book.run("DELETE FROM groups WHERE grp = ?", (name,))
    return int(book.run("SELECT count(*) FROM pending").fetchone()[0])


def pending(book: Book) -> Iterator[Group]:
    """Yield the exams yet to be read, those of one folder together."""
    masked = book.run("SELECT 1 FROM masks LIMIT 1").fetchone() is not None
    last: tuple[int, bytes] = (-1, b"")
    while end := _page_end(book, last):
        rows = book.run(_OF_PENDING, (*last, *end)).fetchall()
        for name, parts in groupby(rows, key=lambda row: row[10]):
            yield _group(book, name, list(parts), masked)
        last = end


def _page_end(book: Book, last: tuple[int, bytes]) -> tuple[int, bytes] | None:
    """Return first file and name of the last group of a page; None after the last page."""
    files, end = 0, None
    for first, name, count in book.run(
        "SELECT first, grp, files FROM pending WHERE (first, grp) > (?, ?) ORDER BY first, grp "
        "LIMIT ?",
        (*last, PAGE_FILES),
    ).fetchall():
        files += count
        if end and files > PAGE_FILES:
            break
        end = (first, name)
    return end


def enter(book: Book, group: Group, exam: Mapping[str, Any], secret: bytes) -> None:
    """Note an exam; it counts once its group is finished."""
    key = key_of(secret, "exam", f"{text_of(group.name)}\n{exam['suffix']}")
    apart = ("shard", "offset", "nbytes", "digest", "look", "patient")
    patient: str | None = exam["patient"]
    facts = {name: value for name, value in exam.items() if name not in apart}
    book.run(
        "INSERT OR REPLACE INTO exams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key, group.name, exam["shard"], exam["offset"], exam["nbytes"], exam["digest"],
            exam["look"], len(exam["shape"]) - 1,
            None if patient is None else blob(patient), json.dumps(facts),
        ),
    )  # fmt: skip
    if patient:
        book.name_all([patient])


def finish(book: Book, group: Group, unfit: Mapping[str, int]) -> None:
    """Note that a group is read whole; *unfit*: why how many of its exams cannot be taken."""
    _settle(book, group, "done", "", "", unfit)


def skip(book: Book, group: Group, kind: str, detail: str) -> None:
    """Note that a group cannot be taken; nothing of it is in the data set."""
    book.run("DELETE FROM exams WHERE grp = ?", (group.name,))
    _settle(book, group, "skipped", kind, detail, {})


def _settle(
    book: Book, group: Group, state: str, kind: str, detail: str, unfit: Mapping[str, int]
) -> None:
    patient = min(group.patients, default="")
    book.run(
        "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            group.name, group.mark, state, kind, detail, len(group.parts), group.file,
            blob(patient), json.dumps(dict(unfit)),
        ),
    )  # fmt: skip


def _marked(
    name: bytes, rows: Iterable[tuple[Any, ...]]
) -> tuple[int, bytes, str, int, str | None]:
    """Return a group as ``pending`` has it, with the mark of its files; and the mark known."""
    running, count, first, known = hashlib.sha256(), 0, 1 << 62, None
    for row in rows:
        running.update(repr(row[1:8]).encode())
        if row[5] is not None and row[10] == TABLE:  # what a catalog names is kept more readily
            running.update(TABLE.encode())
        count, first, known = count + 1, min(first, row[8]), row[9]
    return first, name, running.hexdigest(), count, known


def _group(book: Book, name: bytes, rows: list[tuple[Any, ...]], masked: bool) -> Group:
    if len(rows) > 1:
        rows.sort(key=lambda row: (json.loads(row[3]), row[6], row[0]))
    mask = book.run(_MASK, (rows[0][0],)).fetchone() if masked else None
    told = {**mask_parts(book, mask[0]), "named": mask[1] == TABLE} if mask else None
    return Group(
        name=name,
        mark=rows[0][11],
        mask=told,
        reader=rows[0][2],
        parts=tuple(_part(name, row) for row in rows),
        file=rows[0][0],
        modality=rows[0][4],
        patients=frozenset(text_of(row[8]) for row in rows if row[8]),
        names=tuple({name for row in rows for name in (*json.loads(row[9]), text_of(row[8]))}),
        nbytes=sum(row[5] for row in rows)
        + sum(part["nbytes"] for part in (told or {}).get("parts", ())),
    )


def mask_parts(book: Book, file: int) -> dict[str, Any]:
    """Return reader and parts of a file that is, or may be, a mask."""
    rows = book.run(_OF_FILE, (file,)).fetchall()
    return {"reader": rows[0][2], "parts": [_part(b"mask", row) for row in rows]}


def _part(name: bytes, row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "file": text_of(row[1]), "group": text_of(name), "order": json.loads(row[3]),
        "patient": text_of(row[8]), "modality": row[4], "nbytes": row[5], "index": row[6],
        "extra": json.loads(row[7]),
    }  # fmt: skip
