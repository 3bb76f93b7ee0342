"""The search for names: every byte that was produced, against all that the source calls somebody.

What it finds is there. What it does not find may still be: a name burnt into the pixels as a
picture, a single letter, a number of two digits, or a name that the headers do not hold. Names
under four characters and numbers under six digits stand everywhere by chance: they are looked for
as whole words of what is written (``written``), not in every byte. In pixels, where any short run
of bytes turns up by chance, a find that chance explains is told apart.
"""

import base64
import csv
import io
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.demography import KEPT
from confrere_client.ingest.judging.scan import Scanner
from confrere_client.ingest.judging.terms import is_short, terms_of, words_of_texts
from confrere_client.ingest.judging.words import Words, is_word
from confrere_client.ingest.judging.written import pieces, words_in
from confrere_client.ingest.keeping.book import text_of
from confrere_client.ingest.keeping.dataset import CATALOG, Dataset, open_dataset
from confrere_common.errors import DataError
from confrere_common.storage import atomic_write

CHUNK = 1 << 22
HITS = "phi_hits.csv"
URI = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=]+)")
CHANCE = 1e-3
"""A find in pixels that so many were to be expected of is put down to chance."""

WINDOW = 2048
SEXES = frozenset(word.encode() for word in KEPT["sex"])
REPEATED = 3
FLAT = 2
MOST = 1000
"""Finds that are kept; one is enough to stop a data set from leaving."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A term of the source in a file of the data set."""

    file: str
    where: str
    term: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was searched, and what was found."""

    hits: tuple[Hit, ...]
    chance: int
    """Finds in pixels that chance explains."""

    terms: int
    words: int
    """Terms of these that are so short, or common, that they were looked for as words alone."""

    short: int
    """Identifiers too short to be searched for at all."""

    nbytes: int
    listed: Path
    """Where the hits are listed, with the names: in the private folder."""

    def told(self) -> str:
        """Say it without a name."""
        what = f"searched {self.nbytes:,} bytes for {self.terms:,} names, ids, dates and paths"
        if self.words:
            what += f" ({self.words:,} short ones as words of texts)"
        left = f"; {self.short} are too short to be searched for" if self.short else ""
        luck = f"; {self.chance} chance finds in pixels" if self.chance else ""
        if not self.hits:
            return f"{what}: none found{left}{luck}."
        files = sorted({f"{hit.file} ({hit.where})" for hit in self.hits})
        shown = ", ".join(files[:5])
        return (
            f"{what}: {len(self.hits)} FOUND, in {shown}{left}{luck}. The data set must not be "
            f"used. {self.listed} lists them (it holds the names). What your own catalog says "
            "(site, label, classes of boxes) can be called otherwise there: then prepare again."
        )


def check_phi(dataset: Path, book: Path) -> Search:
    """Search every file of *dataset* for what *book* knows of its source; write the hits beside it.

    The catalog is searched as it lies and decoded (of sex and age: what is no value of the list);
    thumbnails as they lie and decoded; text in any case; terms as UTF-8, Latin-1 and UTF-16.
    DataError when there is no book to search by.

    Guarantee: without a hit, no identifier of four characters (a number: six digits) stands in any
    byte that was searched, but for what chance explains in pixels; and no shorter one, down to two
    characters (a number: three digits), is a word of what a catalog or a report says freely, nor
    is one that is also a word of ours ('image').
    """
    made = open_dataset(dataset, str(dataset))
    terms, words, short = _terms(book)
    scanner = Scanner(terms)
    total = sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())
    hits: list[Hit] = []
    chance = 0
    for path in sorted(path for path in dataset.rglob("*") if path.is_file()):
        name = str(path.relative_to(dataset))
        for where, binary, data in _views(path):
            for offset, term in scanner.find(data):
                if path.name == CATALOG and binary and term in SEXES:
                    continue  # a column's own words; what it holds is searched decoded
                if binary and _is_chance(data, offset, term, total * max(1, len(terms))):
                    chance += 1
                elif binary or _stands_alone(data, offset, term):
                    hits.append(Hit(file=name, where=where, term=term.decode("utf-8", "replace")))
        hits = hits[:MOST]
    hits += _short_hits(made, words)
    listed = book.with_name(HITS)
    _write(listed, hits)
    return Search(
        hits=tuple(hits), chance=chance, terms=len(terms) + len(words), words=len(words),
        short=short, nbytes=total, listed=listed,
    )  # fmt: skip


def _short_hits(dataset: Dataset, words: Words) -> list[Hit]:
    """Return where short terms stand as words, each place once."""
    found = (
        Hit(file=piece.file, where=piece.where, term=term)
        for piece in pieces(dataset)
        for term in sorted(words_in(piece, words))
    )
    return [*islice(dict.fromkeys(found), MOST)]


def _terms(book: Path) -> tuple[set[str], Words, int]:
    """Return what is searched for in bytes, what as words, and how many are for neither."""
    if not book.is_file():
        raise DataError(
            f"there is no {book}: without the book of the preparation nobody knows which names to "
            "search for. Prepare the data set anew."
        )
    sql = sqlite3.connect(f"file:{book}?mode=ro", uri=True)
    try:
        names = [text_of(name) for (name,) in sql.execute("SELECT name FROM names")]
        places = (text_of(place) for (place,) in sql.execute("SELECT place FROM files"))
        brief = words_of_texts(names)
        short = sum(is_short(name.strip()) and not is_word(name) for name in names)
        return terms_of(names, places), Words(brief), short
    finally:
        sql.close()


def _views(path: Path) -> Iterator[tuple[str, bool, bytes]]:
    """Yield what is to be searched of a file: its name, whether it is binary, the bytes."""
    if path.name == CATALOG:
        yield from _columns(path)
    if path.suffix in (".json", ".html"):
        text = path.read_bytes()
        for number, match in enumerate(URI.finditer(text)):
            yield f"thumbnail {number}", True, base64.b64decode(match.group(1))
        yield "text", False, _folded(URI.sub(b"", text).decode("utf-8", "replace"))
        return
    overlap = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield "bytes", True, overlap + chunk
            overlap = chunk[-256:]


def _columns(path: Path) -> Iterator[tuple[str, bool, bytes]]:
    """Yield the catalog's text, column by column, a few thousand rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4096):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if pa.types.is_boolean(column.type):
                    continue
                flat = column.flatten() if pa.types.is_list(column.type) else column
                usual = KEPT.get(name, ())
                told = "\n".join(
                    str(value)
                    for value in flat.to_pylist()
                    if value is not None and value not in usual
                )
                yield f"column {name}", False, _folded(told)


def _folded(text: str) -> bytes:
    return text.casefold().encode("utf-8", "surrogatepass")


def _stands_alone(data: bytes, offset: int, term: bytes) -> bool:
    """Say whether a short term, or a number, is a word of its own: '512345' holds no '1234'."""
    if len(term) >= 8 and not term.isdigit():
        return True
    before, after = data[max(0, offset - 1) : offset], data[offset + len(term) :][:1]
    return not (before.isalnum() and term[:1].isalnum()) and not (
        after.isalnum() and term[-1:].isalnum()
    )


def _is_chance(data: bytes, offset: int, term: bytes, tries: int) -> bool:
    """Say whether chance would put *term* here or elsewhere, bytes being as they are around it.

    A term that stands there again and again is no chance; one of only one or two different bytes
    always is ('0000' is a dark region).
    """
    if len(set(term)) <= FLAT:
        return True
    low, high = max(0, offset - WINDOW), offset + len(term) + WINDOW
    around = data[low:offset] + data[offset + len(term) : high]
    if around.lower().count(term) >= REPEATED - 1:
        return False
    counts: NDArray[np.int64] = np.bincount(np.frombuffer(around, np.uint8), minlength=256)
    logs = 0.0
    for byte in term:
        both = {byte, ord(bytes([byte]).upper())}
        logs += float(np.log(sum(counts[one] + 0.5 for one in both) / (len(around) + 128)))
    return float(np.log(tries)) + logs > float(np.log(CHANCE))


def _write(path: Path, hits: list[Hit]) -> None:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["# THIS LIST HOLDS NAMES: it must not leave the hospital."])
    table.writerow(["file", "where", "term"])
    table.writerows((hit.file, hit.where, hit.term) for hit in hits)
    atomic_write(path, text.getvalue().encode("utf-8", "surrogatepass"))
