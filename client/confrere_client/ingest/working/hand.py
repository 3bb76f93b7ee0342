"""A worker: it looks into files, unpacks archives, reads exams and puts their pixels in place.

It is the only process that decodes what came from outside. It keeps silent on standard error, and
of an unforeseen exception it tells the type alone: its text may hold a name.
"""

import ctypes
import json
import resource
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from confrere_client.ingest.finding.archive import Limits, Share, is_archive, unpack
from confrere_client.ingest.finding.walk import Found, Missed
from confrere_client.ingest.keeping.shards import DiskFault, Shelf, disk
from confrere_client.ingest.preprocess import DEFAULT, Config, fit_exam
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.reader import HEAD_BYTES, READERS, Exam, Part, Reader, Skipped
from confrere_client.ingest.working.facts import facts_of
from confrere_client.ingest.working.lettering import may_hold_text, without_text
from confrere_client.ingest.working.masks import (
    LABELS,
    UNTOLD,
    Mask,
    fit_mask,
    fitted,
    is_label_map,
    kind_of_labels,
    read_mask,
)
from confrere_client.ingest.working.mouth import Mouth

Said = dict[str, Any]
PARENT_DIED = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

ROOM_BYTES = 6 << 30
"""Address space beside what pixels need: libraries map far more than they use."""

COPIES = 6
"""How many times the pixels of one exam may stand in memory (decoded, scaled, resampled)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every task of this worker needs."""

    plan: Plan
    options: Mapping[str, Any]
    limits: Limits
    shelf: Shelf
    readers: Mapping[str, Reader]
    shaping: Config = DEFAULT


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of an exam beside its files."""

    modality: str
    names: tuple[str, ...]
    mask: Mask | None
    """Its label map; None where none was found."""


def main() -> None:
    """Do what comes over the socket given, until it is closed."""
    line = Connection(int(sys.argv[1]))
    try:
        work = _begin(json.loads(line.recv_bytes()))
        mouth = Mouth(line, int(sys.argv[2]))
        while True:
            mouth.answer(json.loads(line.recv_bytes()), lambda ask: answers(ask, work))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return


def answers(ask: Said, work: Work) -> Iterator[Said]:
    """Yield what is to be said of one task; the last is done, skip or disk."""
    tasks = {"index": _index, "unpack": _unpack, "labels": _labels, "load": _load}
    task = tasks[ask["do"]]
    mark = work.shelf.mark
    try:
        yield from task(ask, work)
        yield {"done": True}
        return
    except DiskFault as fault:
        said: Said = {"disk": str(fault)}
    except Skipped as fault:
        said = {"skip": fault.kind, "detail": fault.detail}
    except MemoryError:
        said = {"skip": "needs too much memory", "detail": ""}
    except Exception as fault:  # a reader's library may raise anything on a damaged file
        said = {"skip": "damaged", "detail": type(fault).__name__}
    work.shelf.back(mark)
    yield said


def _begin(told: Said) -> Work:
    ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    room = told["max_nbytes"] * COPIES + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold pixels and names
    warnings.simplefilter("ignore")
    return Work(
        plan=Plan(**told["plan"]),
        options=told["options"],
        limits=Limits(**told["limits"]),
        shelf=Shelf(Path(told["pixels"]), told["shelf"]),
        readers=_readers(),
        shaping=Config(**told["shaping"]),
    )


def _readers() -> dict[str, Reader]:
    made: dict[str, Reader] = {name: READERS.member(name)() for name in READERS.names()}
    return dict(sorted(made.items(), key=lambda pair: pair[1].last_resort))


def _index(ask: Said, work: Work) -> Iterator[Said]:
    """Say which reader takes a file and which parts it holds; or that it is an archive."""
    file = Path(ask["file"])
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except PermissionError:
        raise Skipped("may not be read") from None
    except OSError:
        raise Skipped("cannot be opened") from None
    refused: Skipped | None = None
    for name, reader in work.readers.items():
        if not reader.claims(head, file):
            continue
        try:
            parts = [_plain(part) for part in reader.index(file)]
        except Skipped as fault:
            refused = refused or fault
            continue
        yield {"reader": name, "parts": parts}
        return
    if refused:
        raise refused
    if not is_archive(head, file):
        raise Skipped("of no known kind")
    yield {"archive": True}


def _plain(part: Part) -> Said:
    return {
        "group": part.group, "order": part.order, "patient": part.patient, "names": part.names,
        "modality": part.modality, "nbytes": part.nbytes, "index": part.index,
        "extra": dict(part.extra),
    }  # fmt: skip


def _unpack(ask: Said, work: Work) -> Iterator[Said]:
    archive = Found(
        path=Path(ask["file"]), place=ask["place"], size=ask["size"], mtime_ns=ask["mtime_ns"]
    )
    with disk():
        for item in unpack(archive, Path(ask["into"]), work.limits, Share(**ask["share"])):
            if isinstance(item, Missed) and item.place == archive.place:
                raise Skipped(item.kind)  # what came out may be half of an exam
            if isinstance(item, Missed):
                yield {"missed": item.place, "kind": item.kind}
            else:
                yield {"found": item.place, "path": str(item.path), "size": item.size}


def _labels(ask: Said, work: Work) -> Iterator[Said]:
    """Say whether what is called a label map is one."""
    reader = work.readers[ask["reader"]]
    yield {"labels": kind_of_labels(reader, _parts(ask["parts"]), work.options)}


def _load(ask: Said, work: Work) -> Iterator[Said]:
    """Put the pixels of each exam of a group in place; say where, and what is known of them."""
    parts = _parts(ask["parts"])
    about = About(modality=ask["modality"], names=tuple(ask["names"]), mask=_mask(ask, work))
    options = dict(work.options)
    if not may_hold_text(about.modality):  # letters are looked for in all pixels
        options["picture_px"] = work.plan.image_px
    found = 0
    for exam in work.readers[ask["reader"]].load(parts, options):
        found += 1
        try:
            if work.shaping.label_maps and ask["reader"] in UNTOLD and is_label_map(exam.pixels[0]):
                raise Skipped(LABELS, "by its content")
            yield {"exam": _keep(exam, about, work)}
        except Skipped as fault:
            if fault.kind == LABELS:
                raise
            yield {"unfit": fault.kind}  # the other exams of the file may do
    if not found:
        raise Skipped("no pixel data")


def _parts(plain: list[Said]) -> list[Part]:
    return [
        Part(**{**part, "file": Path(part["file"]), "order": tuple(part["order"]), "names": ()})
        for part in plain
    ]


def _mask(ask: Said, work: Work) -> Mask | None:
    told = ask.get("mask")
    if told is None:
        return None
    reader = work.readers[told["reader"]]
    return read_mask(reader, _parts(told["parts"]), work.options, named=told["named"])


def _keep(exam: Exam, about: About, work: Work) -> Said:
    tagged = replace(exam, tags={"modality": about.modality, **exam.tags})
    clean = without_text(tagged, str(tagged.tags["modality"]), work.plan.burnt_in)
    pixels, record = fit_exam(clean, work.plan, work.shaping)
    labels, fault = fitted(about.mask, exam) if about.mask else (None, "")
    if fault:
        clean = replace(clean, warnings=(*clean.warnings, fault))
    facts = facts_of(clean, pixels, about.names)
    if labels is not None:
        mask = fit_mask(labels, record.get("crop"), pixels.shape[1:])
        facts["mask"] = {**vars(work.shelf.put(mask)), "dtype": mask.dtype.name}
    return {
        **facts, **vars(work.shelf.put(pixels)), "suffix": exam.suffix, "patient": exam.patient,
        "preprocessing": record,
    }  # fmt: skip


if __name__ == "__main__":
    main()
