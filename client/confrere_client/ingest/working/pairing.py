"""Label maps beside images: found by name, sure by content; masks of their images, or skipped."""

from collections.abc import Iterator, Sequence
from itertools import islice

from confrere_client.ingest.finding.labels import Wanted, wanted_by
from confrere_client.ingest.keeping.book import Book, blob, text_of
from confrere_client.ingest.keeping.groups import TABLE, mask_parts
from confrere_client.ingest.working.desk import Desk
from confrere_client.ingest.working.look import BYTES_A_SECOND
from confrere_client.ingest.working.masks import LABEL_RULES, LABELS, UNTOLD
from confrere_client.ingest.working.pool import Task

READERS = ("nifti", "volume", "picture")
"""Those of files that label maps are kept in; DICOM says itself what is a segmentation."""

NAME, CONTENT = "name", "content"
"""Who says whose label map it is: masks.how, which is else TABLE."""

LABEL_MAP = "labels"
"""What a worker says of a file that is one."""

MOST_IMAGES = 16
"""Images that one label map may serve."""

_CANDIDATES = """
SELECT f.id, f.place, f.size, f.mtime, l.labels FROM files f LEFT JOIN looked l ON l.file = f.id
AND l.size = f.size AND l.mtime = f.mtime
WHERE f.state = 'read' AND f.reader IN (?, ?, ?) AND f.id > ?
AND NOT EXISTS (SELECT 1 FROM told t WHERE t.place = f.place)
AND NOT EXISTS (SELECT 1 FROM masks m WHERE m.mask = f.place) ORDER BY f.id LIMIT 1000
"""


_CONCERNED = """
SELECT p.grp FROM parts p JOIN files f ON f.id = p.file WHERE f.reader IN (?, ?)
OR EXISTS (SELECT 1 FROM masks m WHERE m.place = f.place)
OR EXISTS (SELECT 1 FROM told t WHERE t.place = f.place AND t.boxes != '')
"""


def forget_old_rules(book: Book) -> None:
    """Have read again what the rules of a former version may have taken otherwise.

    That is what has a label map, or boxes by the table as it is now, and what its content alone
    tells from a label map.
    """
    if book.fact("label rules", "1") != str(LABEL_RULES):
        book.run("DELETE FROM looked")
        book.run(f"DELETE FROM groups WHERE grp IN ({_CONCERNED})", UNTOLD)  # noqa: S608  (our own)
    book.set_fact("label rules", str(LABEL_RULES))


def pair(desk: Desk, by_name: bool) -> None:
    """Note which image has which label map: what the table says and, if *by_name*, what names say.

    A label map of no image, or of one that has another, stands for its own (``place`` is ``mask``):
    it is no image, and its row says why.
    """
    book = desk.book
    book.run("DELETE FROM masks WHERE how != ?", (CONTENT,))
    gone = "SELECT 1 FROM files f WHERE f.state = 'read' AND f.place = masks"
    book.run(f"DELETE FROM masks WHERE NOT EXISTS ({gone}.mask) OR NOT EXISTS ({gone}.place)")  # noqa: S608
    book.run(
        "INSERT OR REPLACE INTO masks SELECT place, mask, ? FROM told WHERE mask != x''", (TABLE,)
    )
    if not by_name:
        return
    _look(desk)
    found = {text_of(place): labels for _, place, *_, labels in _candidates(book) if labels}
    for place, labels in found.items():
        if labels == LABEL_MAP:  # before others: masks/a is of images/a_t2 only if no masks/a_t2 is
            _note(book, place, _images(book, place, exactly=True))
    for place, labels in found.items():
        _join(book, place, labels)


def _candidates(book: Book) -> Iterator[tuple[int, bytes, int, int, str | None]]:
    """Yield the files that are called as label maps are, and what is known of their content."""
    last = 0
    while rows := book.run(_CANDIDATES, (*READERS, last)).fetchall():
        yield from (row for row in rows if wanted_by(text_of(row[1])))
        last = rows[-1][0]


def _look(desk: Desk) -> None:
    """Have workers see whether what is called a label map is one."""
    book = desk.book
    asked = {row[0]: row for row in _candidates(book) if row[4] is None}

    def tasks() -> Iterator[Task]:
        for file, row in asked.items():
            told = mask_parts(book, file)
            limit_s = desk.bounds.file_s + row[2] / BYTES_A_SECOND
            nbytes = sum(part["nbytes"] for part in told["parts"])
            ask = {"do": "labels", "id": file, **told}
            if nbytes <= desk.bounds.exam_bytes:
                yield Task(ask=ask, limit_s=limit_s, nbytes=nbytes)

    done = 0
    for task, said in desk.pool.carry_out(tasks()):
        if "labels" in said:
            file, _, size, mtime, _ = asked[task.ask["id"]]
            values = (file, size, mtime, said["labels"])
            book.run("INSERT OR REPLACE INTO looked VALUES (?, ?, ?, ?)", values)
        else:
            done += 1
            desk.watch("label maps", done, len(asked))
            desk.keep_sometimes()


def _join(book: Book, place: str, labels: str) -> None:
    """Note the images of one label map; without any, why it is none itself."""
    images = _images(book, place)
    if labels == LABEL_MAP:
        _note(book, place, images)
        if book.run("SELECT 1 FROM masks WHERE mask = ?", (blob(place),)).fetchone():
            return
    why = LABELS
    if images:
        why = "another label map of its image" if labels == LABEL_MAP else "label map in colour"
    book.run("INSERT OR REPLACE INTO masks VALUES (?, ?, ?)", (blob(place), blob(place), why))


def _note(book: Book, place: str, images: Sequence[str]) -> None:
    """Note a label map of images; one that has another keeps that."""
    rows = [(blob(image), blob(place), NAME) for image in images]
    book.run_all("INSERT OR IGNORE INTO masks VALUES (?, ?, ?)", rows)


def _images(book: Book, place: str, *, exactly: bool = False) -> list[str]:
    """Return the images of a label map by name, *exactly* those that are called as it is."""
    found = (one for wanted in wanted_by(place) for one in _called(book, wanted, exactly))
    return [one for one in dict.fromkeys(found) if one != place]


def _called(book: Book, wanted: Wanted, exactly: bool) -> list[str]:
    low = blob(f"{wanted.folder}/{wanted.stem}")
    rows = book.run(
        "SELECT place FROM files f WHERE place >= ? AND place < ? AND state = 'read' "
        "AND NOT EXISTS (SELECT 1 FROM looked l WHERE l.file = f.id AND l.labels != '')",
        (low, low + b"\xff"),
    )
    # as they come: beside scan 1 stand 10 to 19 and 100 to 199
    places = (text_of(kept) for (kept,) in rows)
    fit = (one for one in places if wanted.fits(one) and (wanted.names(one) or not exactly))
    return list(islice(fit, MOST_IMAGES))
