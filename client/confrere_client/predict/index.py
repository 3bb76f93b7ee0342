"""An index of images: what each is called, whose it is, and its features under one network.

Shapes: G images, F features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from confrere_client.predict.asked import Place
from confrere_client.predict.table import TEXT, WHOLE, vector
from confrere_client.source import Record
from confrere_common.errors import ConfigError, DataError
from confrere_common.network import Network

MADE_BY = "confrere.network"
"""Under what key an index says which network made it."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Images that can be searched."""

    ids: Sequence[str]
    owners: Sequence[int]
    """Equal for images of one patient; part of a hash, so that the file names nobody."""

    features_GF: NDArray[np.float32]
    """Of length 1."""

    @staticmethod
    def joined(parts: Sequence["Index"]) -> "Index":
        """Return several as one."""
        features = [part.features_GF for part in parts]
        return Index(
            ids=[name for part in parts for name in part.ids],
            owners=[owner for part in parts for owner in part.owners],
            features_GF=np.concatenate(features) if features else np.empty((0, 0), np.float32),
        )


def index_columns(network: Network) -> Mapping[str, Any]:
    """Return the columns of an index's file."""
    task: Any = network.task
    return {"id": TEXT, "owner": WHOLE, "features": vector(int(task.config.out))}


def said(digest: str) -> Mapping[str, str]:
    """Return what an index's file says of the network that made it."""
    return {MADE_BY: digest}


def owners(place: Place, records: Sequence[Record]) -> list[int]:
    """Return whose each image is: the patient's where that is known, else the image's own alone."""
    return [_owner(place, record) for record in records]


def _owner(place: Place, record: Record) -> int:
    known = place.keyed or record.patient_known
    where = "" if known else f"{place.named.knobs.get('path', '')}\n"
    hashed = hashlib.sha256(f"{where}{record.patient}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(hashed[:8], "big", signed=True)


def is_index(path: Path) -> bool:
    """Say whether a file is an index that was made by this module."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        told = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return MADE_BY.encode() in told


def read_index(path: Path, digest: str) -> Index:
    """Return the index in a file; ConfigError where another network made it."""
    try:
        table = pq.read_table(path)
        features = table.column("features").combine_chunks()
        values = np.asarray(features.flatten(), np.float32).reshape(len(table), -1)
        ids, whose = (table.column(name).to_pylist() for name in ("id", "owner"))
    except (OSError, KeyError, ValueError, pa.ArrowException) as fault:
        raise DataError(f"'{path}' is no index ({type(fault).__name__}): make it again.") from None
    if (table.schema.metadata or {}).get(MADE_BY.encode()) != digest.encode():
        raise ConfigError(
            [
                "was made by another network, whose features mean other things: make it again "
                "with this one."
            ],
            str(path),
        )
    return Index(ids=ids, owners=whose, features_GF=values)
