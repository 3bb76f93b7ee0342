"""Which source reads what lies at a place, where somebody names only the place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confrere_client.ingest.keeping.dataset import is_dataset
from confrere_client.source import SOURCES
from confrere_common.errors import ConfigError, DataError, unknown
from confrere_common.family import Named

SOURCE_OF = {".npz": "npz", ".csv": "catalog", ".tsv": "catalog", ".parquet": "catalog"}


def source_at(path: Path | str, source: str = "auto", knobs: Mapping[str, Any] | None = None
              ) -> Named:  # fmt: skip
    """Return the source that reads *path*, which is made absolute; with *knobs* of its own.

    *source* is a member of the family or 'auto'. A phantom has no path: ''. DataError says what
    cannot be read, or which knob there is not.
    """
    if not str(path):
        name, place = source, {}
    else:
        there = Path(path).expanduser().absolute()
        name, place = kind_at(there) if source == "auto" else source, {"path": str(there)}
    if name in ("auto", "site") or name not in SOURCES.names():
        others = [known for known in SOURCES.names() if known != "site"]
        raise DataError(unknown("source", name, others))
    named = Named(name=name, knobs={**place, **(knobs or {})})
    try:
        SOURCES.configure(named)
    except ConfigError as fault:
        raise DataError(str(fault)) from None
    return named


def kind_at(path: Path) -> str:
    """Return the source that can read what lies at *path*; DataError when nothing there can be."""
    if not path.exists():
        raise DataError(f"there is nothing at '{path}'.")
    if path.is_dir():
        return "prepared" if is_dataset(path) else "folder"
    if path.suffix.lower() in SOURCE_OF:
        return SOURCE_OF[path.suffix.lower()]
    raise DataError(
        f"'{path.name}' is no data set: give an .npz file, a table of images (.csv, .tsv, "
        ".parquet), or a folder of images. One picture alone goes into a folder."
    )
