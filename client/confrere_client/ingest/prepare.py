"""From a folder as it is to a data set that trains: walk, look, read, keep; each step resumable.

Two folders result. DATASET holds pixels, technical tags and keys, and may be registered; beside it,
``DATASET.private`` holds what names somebody (the book of files, the list of skipped files, the
secret of the keys unless the site's folder has it) and is nobody's but its owner's (0700).
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confrere_client.ingest.finding.told import tell
from confrere_client.ingest.finding.walk import Found, walk
from confrere_client.ingest.keeping.book import Book
from confrere_client.ingest.keeping.keys import key_of, site_secret
from confrere_client.ingest.keeping.shards import FOLDER, disk
from confrere_client.ingest.preprocess import DEFAULT, Config
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.publish import publish
from confrere_client.ingest.reader import READERS
from confrere_client.ingest.working.desk import Bounds, Desk, Watch
from confrere_client.ingest.working.look import look
from confrere_client.ingest.working.pairing import forget_old_rules, pair
from confrere_client.ingest.working.pool import Pool, Said
from confrere_client.ingest.working.read import read_pending
from confrere_common.errors import DataError
from confrere_common.storage import alone

READERS_VERSION = 3
"""Raise it when readers take what they refused: skipped files are then tried again."""


WAS: Mapping[str, Any] = {"window": "percentile"}
"""What was done before there was a knob for it, where that is not the knob's default."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be prepared, from where, to where."""

    sources: tuple[Path, ...]
    dataset: Path
    plan: Plan = field(default_factory=Plan)
    table: Path | None = None
    """Tells patient, site, split, label, mask, boxes, sex, age by path."""

    table_knobs: Mapping[str, Any] = field(default_factory=dict)
    shaping: Config = DEFAULT
    """How values are scaled and cut."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """For readers: ``microns_per_px``, ``tile_px``."""

    secret: Path | None = None
    """The site's patient secret; absent: one beside the data set."""

    jobs: int = 1
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def private(self) -> Path:
        """Where what names somebody is kept."""
        return private_folder(self.dataset)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a turn came to."""

    met: int
    """Files of the sources, members of archives counted."""

    read: int
    """Exams (or files of many) read in this turn; the others were known."""

    gone: int
    lost_rows: int
    """Rows of the table that name no file."""


def private_folder(dataset: Path) -> Path:
    """Return the folder beside a data set that never leaves."""
    return dataset.with_name(f"{dataset.name}.private")


def prepare(order: Order, watch: Watch = lambda *_: None) -> Done:
    """Bring the data set of *order* up to date with its sources, and publish it.

    Killed at any moment, it is called again and goes on. DataError when there is nothing to read,
    when the data set was prepared otherwise, or when the disk is full (DiskFault).
    """
    _check(order)
    with disk():
        order.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    busy = "another 'confrere client prepare' is at work on this data set: wait for it."
    with ExitStack() as stack:
        stack.enter_context(alone(order.private / "lock", busy))
        book = stack.enter_context(closing(Book(order.private / "book.sqlite")))
        secret = site_secret(order.secret or order.private / "patient.key")
        _must_fit(book, order, secret)
        pool = stack.enter_context(_pool(order, book))
        done = _turn(order, book, pool, secret, watch)
        publish(book, order.dataset, order.private, secret, _told_of(order))
        book.keep()
    return done


def _check(order: Order) -> None:
    if not order.sources:
        raise DataError("name at least one folder, file or archive to prepare.")
    # a data set within its own source would be read as one
    for source in order.sources:
        if source.resolve() == order.dataset.resolve():
            raise DataError("the data set cannot be its own source: choose another --out.")
    if order.table and not order.table.is_file():
        raise DataError(f"there is no catalog '{order.table}'.")
    if not any(isinstance(item, Found) for item in walk(order.sources, _ours(order))):
        # an unmounted disk looks like an empty folder: it must not empty the data set
        raise DataError("no file of the sources may be read; nothing was changed.")


def _ours(order: Order) -> tuple[Path, Path]:
    return order.dataset, order.private


def _must_fit(book: Book, order: Order, secret: bytes) -> None:
    """Refuse to mix two sizes, or two secrets, in one data set."""
    told = json.dumps({**_told_of(order), "secret": key_of(secret, "secret", "")}, sort_keys=True)
    known = json.loads(book.fact("order", "null"))
    if known:  # knobs that are newer than the data set had what is now their default, mostly
        known["shaping"] = {
            **_told_of(Order(sources=(), dataset=order.dataset))["shaping"],
            **WAS,
            **known["shaping"],
        }
    if known and json.dumps(known, sort_keys=True) != told:
        was = {key: value for key, value in known.items() if key != "secret"}
        raise DataError(
            f"this data set was prepared otherwise: {json.dumps(was)}, or under another patient "
            "secret. Give the same options, or choose another --out."
        )
    book.set_fact("order", told)
    readers = f"{READERS_VERSION} {' '.join(READERS.names())}"
    if book.fact("readers", readers) != readers:
        book.try_skipped_again()
    book.set_fact("readers", readers)
    book.keep()


def _told_of(order: Order) -> dict[str, Any]:
    told = {
        "plan": asdict(order.plan),
        "shaping": asdict(order.shaping),
        "options": dict(sorted(order.options.items())),
    }
    return dict(json.loads(json.dumps(told)))


def _pool(order: Order, book: Book) -> Pool:
    settings = {
        "plan": asdict(order.plan),
        "shaping": asdict(order.shaping),
        "options": dict(order.options),
        "limits": asdict(order.bounds.archives),
        "pixels": str((order.dataset / FOLDER).absolute()),
        "max_nbytes": order.bounds.exam_bytes,
    }
    started = iter(range(1, 1 << 30))

    def told() -> Said:
        # the turn and a number: no two processes ever write one file
        return {**settings, "shelf": f"{book.turn:05d}-{next(started):04d}"}

    return Pool(jobs=order.jobs, settings=told, memory_bytes=order.bounds.memory_bytes)


def _turn(order: Order, book: Book, pool: Pool, secret: bytes, watch: Watch) -> Done:
    """Walk, look into what is new, read what changed."""
    desk = Desk(
        book=book, pool=pool, bounds=order.bounds, watch=watch,
        pixels=order.dataset / FOLDER, unpacked=order.private / "unpacked",
    )  # fmt: skip
    roots = [Path(os.path.abspath(source)) for source in order.sources]  # noqa: PTH100  (as walk)
    met = _walk(order, book, watch)
    look(desk)
    gone = book.drop_gone([str(root) for root in roots])
    lost = tell(book, order.table, roots, order.table_knobs) if order.table else 0
    forget_old_rules(book)
    pair(desk, by_name=order.shaping.label_maps)
    book.keep()
    read = read_pending(desk, order.plan, secret)
    shutil.rmtree(desk.unpacked, ignore_errors=True)
    return Done(met=met, read=read, gone=gone, lost_rows=lost)


def _walk(order: Order, book: Book, watch: Watch) -> int:
    met = 0
    for met, item in enumerate(walk(order.sources, _ours(order)), 1):
        if isinstance(item, Found):
            book.meet(item)
        else:
            book.miss(item)
        if met % 100 == 0:
            watch("found", met, None)
    watch("found", met, met)
    book.keep()
    return met
