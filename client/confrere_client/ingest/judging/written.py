"""What a data set says in words: the text of its catalog, its reports and its manifest.

*Free* is what somebody may have written: sites, labels, classes of boxes, rare tags. All else is
made of our own words and of figures.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from confrere_client.ingest.dicom.names import BODY_PARTS, KNOWN, VENDORS
from confrere_client.ingest.judging.naming import FREE, said
from confrere_client.ingest.judging.terms import CLOSED, own_words
from confrere_client.ingest.judging.words import Words, is_number, words_of
from confrere_client.ingest.keeping.dataset import CATALOG, Dataset
from confrere_client.ingest.preprocess_plan import MODALITIES
from confrere_common.preparation import WINDOWS

TAGS = ("model", "kernel", "view", "unit", "photometric")
"""Technical tags that are free text in a header."""

USUAL = frozenset((
    "ap", "pa", "ll", "rl", "rlo", "lat", "llo", "cc", "ml", "mlo", "lm", "lmo", "xccl", "hu", "us",
    "ct", "mr", "bqml", "cnts", "suv", "od", "rgb", "argb", "ybr_full", "monochrome1",
    "monochrome2", "palette color",
))  # fmt: skip
"""Views, units and colours as everybody writes them."""

SAID = (
    "air", "an", "and", "are", "as", "at", "bad", "be", "box", "by", "can", "cut", "end", "far",
    "fit", "for", "gap", "has", "ids", "in", "int", "is", "it", "its", "key", "map", "max", "may",
    "mm", "no", "nor", "not", "of", "off", "one", "or", "out", "per", "px", "raw", "set", "the",
    "to", "too", "was", "way",
)  # fmt: skip
"""Short words of the phrases that readers and reports are made of."""

SHARED_BY = 5
"""A tag that the exams of so many patients have is a device's, whoever is called alike."""


@cache
def vocabulary() -> frozenset[str]:
    """Return the words that stand in a report or a manifest whoever is in the data set."""
    lists = (*SAID, *KNOWN, *VENDORS, *BODY_PARTS, *MODALITIES, *WINDOWS, *USUAL)
    return own_words(least=2) | frozenset(words_of(" ".join(lists)))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of text."""

    file: str
    where: str
    text: str
    free: bool


def words_in(piece: Piece, words: Words) -> set[str]:
    """Return the terms that stand in a piece; where all is ours, no number and no word of ours."""
    found = words.found(piece.text)
    if piece.free:
        return found
    return {term for term in found if not is_number(term)} - vocabulary()


def pieces(dataset: Dataset) -> Iterator[Piece]:
    """Yield the text of a data set, piece by piece, as it is read by people and not as it lies."""
    yield from _cells(dataset)
    for path in sorted(dataset.folder.rglob("*")):
        name = str(path.relative_to(dataset.folder))
        if path.suffix == ".json":
            yield from _strings(name, _parsed(path), free=False)
        elif path.suffix == ".html":
            page = _Page()
            page.feed(path.read_text("utf-8", "replace"))
            page.close()
            for text, free in page.found:
                yield Piece(file=name, where="text", text=text, free=free)


def _cells(dataset: Dataset) -> Iterator[Piece]:
    """Yield what somebody wrote: each different cell of a column once."""
    columns = [*FREE, *(f"tag_{name}" for name in TAGS)]
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in dataset.rows(["patient", *columns]):
        for column in columns:
            if cell := row[column]:
                some = owners[column, said(column, cell)]
                if len(some) < SHARED_BY:
                    some.add(row["patient"])
    for (column, text), some in owners.items():
        if column in FREE or not (len(some) >= SHARED_BY or text.casefold() in USUAL | CLOSED):
            yield Piece(file=CATALOG, where=f"column {column}", text=text, free=True)


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return path.read_text("utf-8", "replace")


def _strings(file: str, value: Any, free: bool) -> Iterator[Piece]:
    """Yield keys and texts; figures are no text. Free are the tables of what somebody wrote."""
    if isinstance(value, str):
        yield Piece(file=file, where="text", text=value, free=free)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield Piece(file=file, where="text", text=key, free=False)
            yield from _strings(file, inner, free or (key in FREE and isinstance(inner, list)))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(file, inner, free)


class _Page(HTMLParser):
    """The visible text of a page, and what of it stands in cells ``data-written``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, bool]] = []
        self._free = self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where what somebody wrote begins."""
        self._hidden = tag in ("style", "script")
        self._free = any(name == "data-written" for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  (the contract's name)
        """Note where it ends."""
        self._free = self._hidden = False

    def handle_data(self, data: str) -> None:
        """Keep what is seen."""
        if data.strip() and not self._hidden:
            self.found.append((data, self._free))
