"""Boxes that a table tells of: as they lie in the picture that is kept, or counted."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confrere_client.data.boxes import read_boxes, written
from confrere_client.ingest.keeping.book import Book, text_of
from confrere_client.ingest.shaping.boxes import kept, refused

SEVERAL = "box of a file of several images"
_EXAMS = """
SELECT e.grp, e.facts FROM exams e JOIN groups g ON g.grp = e.grp AND g.state = 'done'
ORDER BY e.key
"""
_FIRST = """
SELECT f.place, f.reader FROM parts p JOIN files f ON f.id = p.file WHERE p.grp = ? LIMIT 1
"""

Told = Callable[[bytes], str]
"""Return the cell of boxes that a table has for a group, '' for none."""


def drawn(book: Book, group: bytes, cell: str, exam: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the boxes of an exam as its row has them, and of each that is not as drawn, why.

    '' where none were drawn or none can be carried: nobody knows then what is in the picture.
    """
    if not cell:
        return "", []
    boxes = read_boxes(cell)
    if fault := _several(book, group) or refused(exam):
        return "", [fault] * len(boxes)
    carried, faults = kept(boxes, exam)
    return written(carried), [f"box {fault}" for fault in faults]


def box_faults(book: Book, told: Told) -> Iterator[tuple[str, str]]:
    """Yield the file and the reason of each box that is not as it was drawn."""
    if not book.run("SELECT 1 FROM told WHERE boxes != '' LIMIT 1").fetchone():
        return
    for group, facts in book.run(_EXAMS):
        _, faults = drawn(book, group, told(group), json.loads(facts))
        if faults:
            place = text_of(book.run(_FIRST, (group,)).fetchone()[0])
            yield from ((place, fault) for fault in faults)


def _several(book: Book, group: bytes) -> str:
    """Return why a group's exam is not the picture that its file shows; '' when it is."""
    (exams,) = book.run("SELECT count(*) FROM exams WHERE grp = ?", (group,)).fetchone()
    _, reader = book.run(_FIRST, (group,)).fetchone()
    return SEVERAL if exams > 1 or reader == "slide" else ""
