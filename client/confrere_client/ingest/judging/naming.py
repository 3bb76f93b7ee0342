"""What a table says freely of an image, without the cells that name the patient whose it is."""

import json
from collections.abc import Iterable, Mapping

from confrere_client.ingest.judging.terms import forms
from confrere_client.ingest.judging.words import Words
from confrere_client.ingest.keeping.book import Book

FREE = ("site", "label", "boxes")
"""Cells that may hold whatever somebody wrote; of boxes, the classes."""

LEFT_OUT: Mapping[str, str] = {name: f"{name} held an identifier" for name in FREE}
"""Warning of an exam without the cell."""

MOST_PARTS = 16
"""Files of a series repeat who it is: so many of them are asked."""

_NAMES = "SELECT names FROM parts WHERE grp = ? LIMIT ?"


def without_names(
    book: Book, group: bytes, patients: Iterable[str], cells: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return *cells* of ``FREE`` without those that hold an identifier; and a warning for each.

    An identifier is what the files of the *group* hold as one (a name, a number, an institution),
    or one of *patients*; it counts as a whole word, in any case. Of boxes all are left out.
    """
    if not any(cells.values()):
        return dict(cells), []
    names = [name for name in patients if name]
    for (kept,) in book.run(_NAMES, (group, MOST_PARTS)):
        names += json.loads(kept)
    words = Words(form for name in names for form in forms(name))
    naming = [name for name, cell in cells.items() if words.found(said(name, cell))]
    return (
        {name: "" if name in naming else cell for name, cell in cells.items()},
        [LEFT_OUT[name] for name in naming],
    )


def said(column: str, cell: str) -> str:
    """Return what a cell of ``FREE`` says in words: of boxes the classes, no number.

    >>> said("boxes", '[["nodule", 1, 2, 30, 40], ["scar", 4, 4, 9, 9]]')
    'nodule; scar'
    """
    if column != "boxes" or not cell:
        return cell
    try:
        boxes = json.loads(cell)
    except ValueError:
        return cell
    return "; ".join(box[0] for box in boxes if box and isinstance(box[0], str))
