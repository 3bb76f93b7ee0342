"""A prepared data set on the disk: manifest, catalog and pixels; written whole, checked when read.

``manifest.json`` is written last and names the catalog by its digest: a data set without a manifest
that fits is not finished. Nothing in the folder names anybody.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from confrere_client.ingest.keeping.shards import Place, disk
from confrere_client.ingest.reader import TECHNICAL
from confrere_common.errors import DataError
from confrere_common.storage import sync_folder

VERSION = 1
CATALOG, MANIFEST = "catalog.parquet", "manifest.json"
ROWS_AT_ONCE = 2048
"""Rows that a catalog's file keeps together, packed."""

ROWS_IN_HAND = 128
"""Rows that are Python's at one time: they take ten times the memory that packed ones do."""

NUMBERS = ("slice_thickness_mm", "field_strength_t", "kvp")
"""Of the technical tags, those that are numbers."""

_TEXT, _REAL, _WHOLE = pa.string(), pa.float64(), pa.int64()
_MASK = pa.struct([("shard", _TEXT), ("offset", _WHOLE), ("nbytes", _WHOLE), ("dtype", _TEXT)])

SCHEMA = pa.schema([
    ("key", _TEXT),
    ("patient", _TEXT),
    ("patient_known", pa.bool_()),
    ("site", _TEXT),
    ("split", _TEXT),
    ("label", _TEXT),
    ("boxes", _TEXT),
    ("dims", pa.int8()),
    ("shape", pa.list_(pa.int32())),
    ("dtype", _TEXT),
    ("spacing_mm", pa.list_(_REAL)),
    ("source_shape", pa.list_(pa.int32())),
    *((f"tag_{name}", _REAL if name in NUMBERS else _TEXT) for name in TECHNICAL),
    ("warnings", pa.list_(_TEXT)),
    ("flags", pa.list_(_TEXT)),
    ("preprocessing", _TEXT),
    ("shard", _TEXT),
    ("offset", _WHOLE),
    ("nbytes", _WHOLE),
    ("mask", _MASK),
    ("digest", _TEXT),
    ("look", _WHOLE),
    ("histogram", pa.list_(_WHOLE)),
    *((name, _REAL) for name in ("mean", "std", "black", "white")),
    *((name, _REAL) for name in ("unit_p1", "unit_p50", "unit_p99")),
])  # fmt: skip
"""One row an exam. ``patient`` is a key, of the exam's own file where the patient is not known;
``boxes`` are as ``data.boxes`` writes them, in pixels of the stored picture; ``mask`` is where a
label map of the last two or three of ``shape`` lies; ``preprocessing`` is JSON."""

PERSON = pa.schema([("sex", _TEXT), ("age", _TEXT)])
"""Columns of a data set whose table told of them: a word and a band, of ``demography.KEPT``."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A finished data set."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def catalog(self) -> Path:
        """The table of exams."""
        return self.folder / CATALOG

    def rows(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the exams by key, some hundred of them in memory at a time."""
        with pq.ParquetFile(self.catalog) as file:
            for batch in file.iter_batches(ROWS_IN_HAND, columns=columns):
                yield from batch.to_pylist()


def place_of(row: Mapping[str, Any]) -> Place:
    """Return where the pixels of a row lie."""
    return Place(shard=row["shard"], offset=row["offset"], nbytes=row["nbytes"])


def is_dataset(folder: Path) -> bool:
    """Say whether a folder looks like a data set, finished or not."""
    return (folder / MANIFEST).is_file() and (folder / CATALOG).is_file()


def open_dataset(folder: Path, written: str) -> Dataset:
    """Return the data set in *folder*, called *written*; DataError unless it is finished."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version, digest = manifest["version"], manifest["catalog_sha256"]
        finished = digest == sha256_of(folder / CATALOG)
    except FileNotFoundError:
        raise DataError(
            f"there is no prepared data set '{written}', or it is not finished: run "
            "confrere client prepare SOURCE --out DATASET (again)."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"the manifest of '{written}' is damaged: prepare it again.") from None
    if version != VERSION:
        raise DataError(
            f"'{written}' is a data set of version {version}; this Confrere reads {VERSION}: "
            "prepare it anew."
        )
    if not finished:
        raise DataError(f"the catalog of '{written}' is not the manifest's: prepare it again.")
    return Dataset(folder=folder, manifest=manifest)


def write_catalog(
    folder: Path, rows: Iterable[Mapping[str, Any]], *, persons: bool = False
) -> tuple[str, int]:
    """Put the table of exams in place, whole or not at all; return its digest and length.

    *persons*: with the columns ``PERSON``.
    """
    schema = pa.unify_schemas([SCHEMA, PERSON]) if persons else SCHEMA
    with disk():
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{CATALOG}-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                count = _write(file, rows, schema)
                file.flush()
                os.fsync(file.fileno())
            digest = sha256_of(part)
            part.replace(folder / CATALOG)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sync_folder(folder)
    return digest, count


def _write(file: Any, rows: Iterable[Mapping[str, Any]], schema: Any) -> int:
    left, count = iter(rows), 0
    packed = iter(lambda: [*islice(left, ROWS_IN_HAND)], [])
    batches = (pa.RecordBatch.from_pylist(some, schema=schema) for some in packed)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(islice(batches, ROWS_AT_ONCE // ROWS_IN_HAND)):
            writer.write_table(pa.Table.from_batches(some))
            count += sum(map(len, some))
    return count


def sha256_of(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
