"""The book becomes a data set: catalog, report, and the manifest that says it is finished."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from confrere_client.data.catalog import split_name
from confrere_client.ingest.drawn import box_faults, drawn
from confrere_client.ingest.finding.walk import printed
from confrere_client.ingest.judging.judge import Judgement, Seen, judge
from confrere_client.ingest.judging.naming import without_names
from confrere_client.ingest.judging.report import Shown, write_report
from confrere_client.ingest.judging.sharing import would_tell
from confrere_client.ingest.judging.summary import Tally, summary_of
from confrere_client.ingest.keeping.book import Book, text_of
from confrere_client.ingest.keeping.dataset import (
    MANIFEST,
    NUMBERS,
    PERSON,
    SCHEMA,
    VERSION,
    Dataset,
    write_catalog,
)
from confrere_client.ingest.keeping.keys import key_of, number_of
from confrere_client.ingest.keeping.lists import COLUMNS, EXAMS, SKIPPED, Listing, private_list
from confrere_client.ingest.keeping.shards import FOLDER, disk
from confrere_client.ingest.reader import TECHNICAL
from confrere_client.ingest.slide.resolution import resolution
from confrere_common.errors import DataError
from confrere_common.storage import atomic_write

_EXAMS = "exams e JOIN groups g ON g.grp = e.grp AND g.state = 'done' ORDER BY e.key"
_ROWS = f"""
SELECT e.key, e.grp, e.shard, e.start, e.nbytes, e.digest, e.look, e.facts, e.patient, g.patient
FROM {_EXAMS}
"""  # noqa: S608  (our own text)
_SEEN = f"""
SELECT e.key, e.grp, e.digest, e.look, e.dims, e.patient, g.patient,
json_extract(e.facts, '$.mean', '$.white', '$.tags.modality') FROM {_EXAMS}
"""  # noqa: S608
_TOLD_OF = ("patient", "site", "split", "label", "sex", "age", "boxes")
_NOTHING: tuple[Any, ...] = (None,) * len(_TOLD_OF)
_TOLD = """
SELECT t.patient, t.site, t.split, t.label, n.sex, n.age, t.boxes FROM parts p
JOIN files f ON f.id = p.file JOIN told t ON t.place = f.place
LEFT JOIN persons n ON n.place = t.place WHERE p.grp = ? LIMIT 1
"""


def publish(
    book: Book, dataset: Path, private: Path, secret: bytes, told: Mapping[str, Any]
) -> Dataset:
    """Write what the book holds into *dataset*, and the list of skipped files into *private*.

    Raises DataError when no exam could be read; what was published before stays.
    """
    judgement = judge(_seen(book, secret))
    told_of = _teller(book)
    faults = [*box_faults(book, lambda group: told_of(group)[-1] or "")]
    skips = _write_skips(book, private / SKIPPED, faults)
    if not book.run(f"{_SEEN} LIMIT 1").fetchone():
        reasons = "; ".join(f"{count} x {kind}" for kind, count in skips.most_common(8))
        raise DataError(
            f"no image could be read: {reasons}. The files are listed in {private.name}/{SKIPPED}, "
            "which holds names."
        )
    tally, shown = Tally(), Shown()
    tally.box_faults.update(fault for _, fault in faults)
    rows = shown.watching(tally.watching(_flagged(_rows(book, secret), judgement)))
    persons = book.run("SELECT 1 FROM persons LIMIT 1").fetchone() is not None
    with private_list(private / EXAMS, COLUMNS) as table:
        rows = Listing(book, table, judgement.alike).watching(rows)
        digest, count = write_catalog(dataset, rows, persons=persons)
    made = Dataset(folder=dataset, manifest={
        "version": VERSION, "exams": count, "catalog_sha256": digest, **told,
    })  # fmt: skip
    summary = summary_of(tally, judgement, skips, would_tell(made))
    write_report(made, summary, shown)
    manifest = {**made.manifest, "preprocessing": summary["preprocessing"]}
    if summary["stain"]:
        manifest["stain"] = summary["stain"]
    if book.run("SELECT 1 FROM files WHERE state = 'read' AND reader = 'slide' LIMIT 1").fetchone():
        manifest["slides"] = resolution(told["options"])
    with disk():
        atomic_write(dataset / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        _sweep(book, dataset / FOLDER)
    return made


def _rows(book: Book, secret: bytes) -> Iterator[dict[str, Any]]:
    """Yield each exam as the catalog has it, by key; flags are not known yet."""
    told_of = _teller(book)
    for key, group, shard, start, nbytes, digest, look, facts, own, common in book.run(_ROWS):
        plain = json.loads(facts)
        row = dict(zip(_TOLD_OF, told_of(group), strict=True))
        whose = Whose(key=key, group=group, own=own, common=common, told=row["patient"])
        tags = plain["tags"]
        said, faults = without_names(book, group, whose.names, {
            "site": row["site"] or "",
            "label": row["label"] or plain["label"],
            "boxes": row["boxes"] or "",
        })  # fmt: skip
        yield {
            **{name: plain[name] for name in SCHEMA.names if name in plain},
            "key": key, "shard": shard, "offset": start, "nbytes": nbytes, "digest": digest,
            "look": look, "dims": len(plain["shape"]) - 1, "flags": [],
            "patient": whose.patient(secret),
            "patient_known": bool(whose.name),
            "site": said["site"],
            "boxes": drawn(book, group, said["boxes"], plain)[0],
            "split": split_name(row["split"] or plain["split"]),
            "label": said["label"],
            "warnings": [*plain["warnings"], *faults],
            **{name: row[name] or "" for name in PERSON.names},
            "preprocessing": json.dumps(plain["preprocessing"], sort_keys=True),
            **{f"tag_{name}": _tag(name, tags.get(name)) for name in TECHNICAL},
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Whose:
    """What tells whose an exam is."""

    key: str
    group: bytes
    own: bytes | None
    """As the exam says itself; None: as its files do."""

    common: bytes | None
    told: bytes | None
    """As a table says; it knows best."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return all that somebody wrote of whose it is."""
        return tuple(filter(None, map(text_of, (self.told, self.own, self.common))))

    @property
    def name(self) -> str:
        """The patient as somebody wrote it, '' when nobody did."""
        return text_of(self.told) or text_of(self.common if self.own is None else self.own)

    def patient(self, secret: bytes) -> str:
        """Return the patient's key; one of the exam's file, where nobody says who it is."""
        if who := self.name:
            return key_of(secret, "patient", who)
        return self.key if self.own is not None else key_of(secret, "group", text_of(self.group))


def _teller(book: Book) -> Callable[[bytes], tuple[Any, ...]]:
    """Return what says of a group what the table does: the first row that names a file of it."""
    if not book.run("SELECT 1 FROM told LIMIT 1").fetchone():
        return lambda _: _NOTHING

    def told(group: bytes) -> tuple[Any, ...]:
        return tuple(book.run(_TOLD, (group,)).fetchone() or _NOTHING)

    return told


def _tag(name: str, value: Any) -> Any:
    """Return a tag as its column holds it."""
    if name not in NUMBERS:
        return "" if value is None else str(value)
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _flagged(rows: Iterator[dict[str, Any]], judgement: Judgement) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        yield {**row, "flags": list(judgement.flags.get(number, ()))}


def _seen(book: Book, secret: bytes) -> Seen:
    """Return what is needed of all exams at once: a few dozen bytes of each."""
    digests, looks, patients = bytearray(), array("q"), array("q")
    figures, kinds = array("f"), array("h")
    known: dict[tuple[str, int], int] = {}
    told_of = _teller(book)
    for key, group, digest, look, dims, own, common, facts in book.run(_SEEN):
        mean, white, modality = json.loads(facts)
        digests += bytes.fromhex(digest)
        looks.append(look)
        figures.extend((mean, white))
        kinds.append(known.setdefault((modality or "", dims), len(known)))
        whose = Whose(key=key, group=group, own=own, common=common, told=told_of(group)[0])
        patients.append(number_of(whose.patient(secret)))
    table = np.frombuffer(figures, np.float32).reshape(-1, 2)
    return Seen(
        digests=np.frombuffer(digests, ">u8").reshape(-1, 2),
        looks=np.frombuffer(looks, np.int64),
        means=table[:, 0],
        whites=table[:, 1],
        kinds=np.frombuffer(kinds, np.int16),
        patients=np.frombuffer(patients, np.int64),
    )


def _write_skips(book: Book, path: Path, faults: Iterable[tuple[str, str]]) -> "Counter[str]":
    """Write which file is not in the data set, and why, for the data manager; count reasons.

    *faults* of boxes are written beside them; no file is skipped for its boxes.
    """
    counts: Counter[str] = Counter()
    with private_list(path, ("reason", "detail", "file")) as table:
        for place, kind, detail in book.skips():
            counts[kind] += 1
            table.writerow([kind, detail, printed(place)])
        for place, unfit in book.unfit():
            counts.update(unfit)
            for kind, count in unfit.items():
                table.writerow([kind, f"{count} of its exams", printed(place)])
        for (place, fault), count in Counter(faults).items():
            table.writerow([fault, f"{count} of its boxes", printed(place)])
    return counts


def _sweep(book: Book, pixels: Path) -> None:
    """Remove files of pixels that no exam lies in: a killed turn's, and those of replaced exams.

    They are kept for the turn in which the last catalog that speaks of them is replaced: a run that
    has begun on it may have them open.
    """
    where = "SELECT DISTINCT shard, json_extract(facts, '$.mask.shard') FROM exams"
    used = {shard for row in book.run(where) for shard in row}
    known = set(json.loads(book.fact("unused", "[]")))
    unused = {path.name for path in pixels.glob("*.bin")} - used
    for name in unused & known:
        (pixels / name).unlink()
    book.set_fact("unused", json.dumps(sorted(unused - known)))
