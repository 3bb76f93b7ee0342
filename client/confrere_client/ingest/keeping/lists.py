"""The private lists for a data manager: tables with names of files, written row by row."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from confrere_client.ingest.finding.walk import printed
from confrere_client.ingest.keeping.book import Book, text_of
from confrere_client.ingest.keeping.shards import disk
from confrere_common.storage import atomic_file

EXAMS, SKIPPED = "exams.csv", "skipped.csv"
MOST_PATHS = 20
"""Files that a line names; a series of more is found by its first."""

WARNING = "# THIS LIST HOLDS NAMES OF FILES: it must not leave the hospital."
COLUMNS = ("key", "kind", "flags", "like", "warnings", "part", "files", "paths")

Table: TypeAlias = Any
"""A writer of the module csv."""

_FILES = """
SELECT DISTINCT f.place, g.files, json_extract(e.facts, '$.suffix') FROM exams e
JOIN groups g ON g.grp = e.grp JOIN parts p ON p.grp = e.grp JOIN files f ON f.id = p.file
WHERE e.key = ? ORDER BY f.place LIMIT ?
"""


@contextmanager
def private_list(path: Path, columns: Sequence[str]) -> Iterator[Table]:
    """Yield a table with *columns* that is put at *path*, 0600, when the block ends well.

    It is there whole or as it was before; a row takes no memory once it is written. DiskFault when
    the disk does not take it.
    """
    with disk(), atomic_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(text)
        table.writerow([WARNING])
        table.writerow(columns)
        yield table
        text.flush()
        text.detach()  # the file is closed by whoever opened it


class Listing:
    """Writes where each exam of the catalog came from, as its rows pass."""

    def __init__(self, book: Book, table: Table, alike: Mapping[int, int]) -> None:
        self._book, self._table, self._alike = book, table, alike
        self._first = dict.fromkeys(alike.values(), "")

    def watching(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield *rows* as they are, in the order in which they were judged."""
        for number, row in enumerate(rows):
            if number in self._first:
                self._first[number] = row["key"]
            self._write(row, self._first.get(self._alike.get(number, -1), ""))
            yield row

    def _write(self, row: Mapping[str, Any], like: str) -> None:
        found = self._book.run(_FILES, (row["key"], MOST_PATHS)).fetchall()
        _, files, part = found[0] if found else ("", 0, "")  # an archive that is gone meanwhile
        self._table.writerow([
            row["key"], f"{row['tag_modality'] or 'not said'} {row['dims']}-D",
            "; ".join(row["flags"]), like, "; ".join(row["warnings"]), part or "", files,
            "\n".join(printed(text_of(place)) for place, *_ in found),
        ])  # fmt: skip
