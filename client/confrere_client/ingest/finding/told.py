"""A table that tells what files do not, by path: patient, site, split, label, mask, boxes, ..."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from confrere_client.data.boxes import CORNERS, read_boxes, written
from confrere_client.demography import KEPT, kept_of
from confrere_client.ingest.keeping.book import Book, blob
from confrere_client.source import UnreadableImage
from confrere_common.errors import DataError

log = getLogger(__name__)
COLUMNS = ("path", "patient", "site", "split", "label")
ALSO = ("mask", "boxes")


def tell(book: Book, table: Path, roots: Sequence[Path], knobs: Mapping[str, Any]) -> int:
    """Put what *table* says into the book in place of what it said before.

    Paths start at the table's folder, or at one of *roots*; ``archive.zip!/member`` names a member.
    *knobs* are the catalog source's (``patient_column``, ...), and ``mask_column`` and
    ``boxes_column``. Return how many rows name no file of the book. DataError where the table
    cannot be read, contradicts itself, or no row of it fits.
    """
    book.run("DELETE FROM told")
    book.run("DELETE FROM persons")
    lost = count = 0
    unread: Counter[str] = Counter()
    for row in _rows(table, knobs):
        count += 1
        place = _place(book, row["path"], table.parent, roots)
        mask = _place(book, row["mask"], table.parent, roots) if row["mask"] else ""
        lost += not place
        if place:
            book.run(
                "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    blob(place), blob(row["patient"]), row["site"], row["split"], row["label"],
                    blob(mask or ""), row["boxes"],
                ),
            )  # fmt: skip
            book.name_all([row["patient"]])
            unread.update(_person(book, place, row))
    for column, cells in unread.items():
        log.warning("%d cells of column '%s' are no %s and were left out", cells, column, column)
    if count and lost == count:
        raise DataError(
            f"none of the {count} rows of the table names a file that was found. Its paths must "
            "start at the table's own folder or at one of the sources."
        )
    return lost


def _person(book: Book, place: str, row: Mapping[str, str]) -> list[str]:
    """Note what may be kept of sex and age; return the columns whose cell says nothing known."""
    found = {name: kept_of(name, row[name]) for name in KEPT}
    if any(found.values()):
        values = (blob(place), found["sex"], found["age"])
        book.run("INSERT OR REPLACE INTO persons VALUES (?, ?, ?)", values)
    return [name for name, value in found.items() if row[name] and not value]


def _rows(table: Path, knobs: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    plain = {key: value for key, value in knobs.items() if key.removesuffix("_column") not in ALSO}
    records = _records(table, plain)
    also = {name: _column(table, plain, knobs.get(f"{name}_column"), name) for name in ALSO}
    for row, record in enumerate(records):
        told = {name: cells[row] if cells else "" for name, cells in also.items()}
        yield {
            "path": record.name,
            "patient": record.patient if record.patient_known else "",
            "site": record.site,
            "split": record.split,
            "label": record.label,
            **{name: record.about.get(name, "") for name in KEPT},
            "mask": told["mask"],
            "boxes": _boxes(told["boxes"]),
        }


def _column(
    table: Path, knobs: Mapping[str, Any], wanted: str | None, usual: str
) -> list[str] | None:
    """Return one more column, read as the catalog reads a label's; None if it need not be there."""
    try:
        found = _records(table, {**knobs, "label_column": wanted or usual})
    except DataError as fault:
        if wanted is None and "unknown column" in str(fault):
            return None
        raise
    return [record.label for record in found]


def _records(table: Path, knobs: Mapping[str, Any]) -> Sequence[Any]:
    from confrere_client.sources.catalog import Catalog  # loads torch: only where there is a table

    return Catalog(Catalog.Config(path=str(table.absolute()), **knobs), Path()).records()


def _boxes(text: str) -> str:
    """Return boxes as ``data.boxes`` writes them; '' for none.

    Nothing but numbers and a class is taken: a free text might name somebody.
    """
    if not text:
        return ""
    try:
        boxes = read_boxes(text)
    except UnreadableImage:
        boxes = [("", ())]
    if any(len(corners) not in CORNERS for _, corners in boxes):
        raise DataError(
            "a cell of boxes is not [['class', left, top, right, bottom], ...] in pixels, as JSON, "
            "the class in quotes."
        )
    return written(boxes)


def _place(book: Book, path: str, folder: Path, roots: Sequence[Path]) -> str:
    """Return the place in the book of what a table calls *path*; '' when it is not there."""
    if not path:
        return ""
    starts = [str(folder / path), *(str(root / path) for root in roots)]
    inside = [f"{root}!/{path}" for root in roots]
    for start in [*starts, *inside]:
        place = os.path.abspath(start)  # noqa: PTH100  (links stay as they are)
        if book.run("SELECT 1 FROM files WHERE place = ?", (blob(place),)).fetchone():
            return place
    return ""
