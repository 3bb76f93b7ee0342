"""An index of images by what they look like, and which of them are nearest to others.

Shapes: Q queries, G images of the index, F features.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.finetune.judge import collected
from confrere_client.predict.desk import Desk
from confrere_client.predict.index import Index, index_columns, is_index, owners, read_index, said
from confrere_client.predict.nearest import nearest
from confrere_client.predict.table import REAL, TEXT, WHOLE, open_table
from confrere_common.errors import ConfigError

FILE = "index.parquet"


def write(desk: Desk) -> None:
    """Write ``index.parquet`` (id, owner, features), and for queries ``neighbours``.

    Of a neighbour: query, rank, id, cosine. None is of the query's own patient, nor itself.
    """
    source, query = desk.order.source, desk.order.query
    if is_index(source):
        if query is None:
            raise ConfigError(["an index answers queries: give images with --query."], str(source))
        index = read_index(source, desk.network.digest)
    else:
        index = _made(desk, keep=query is not None)
    if query is not None:
        _write_neighbours(desk, query, index)


def _made(desk: Desk, *, keep: bool) -> Index:
    """Write the index, and return it where it is to be searched at once."""
    parts = []
    with open_table(
        desk.order.out / FILE, index_columns(desk.network), said(desk.network.digest)
    ) as table:
        for part in _features(desk, desk.order.source, "index"):
            table.add({"id": part.ids, "owner": part.owners, "features": list(part.features_GF)})
            parts += [part] if keep else []
    return Index.joined(parts)


def _features(desk: Desk, path: Path, step: str) -> Iterator[Index]:
    place = desk.place(path)
    for batch in desk.batches(place, step):
        found: NDArray[np.float32] = collected(desk.exam(batch), desk.task.predict)
        yield Index(ids=batch.names, owners=owners(place, batch.records), features_GF=found)


def _write_neighbours(desk: Desk, query: Path, index: Index) -> None:
    columns = {"query": TEXT, "rank": WHOLE, "id": TEXT, "cosine": REAL}
    table = desk.table("neighbours", columns)
    for part in _features(desk, query, "queries"):
        for name, found in zip(part.ids, nearest(part, index, desk.order.neighbours), strict=True):
            table.add(
                {
                    "query": [name] * len(found),
                    "rank": [*range(1, len(found) + 1)],
                    "id": [index.ids[place] for place, _ in found],
                    "cosine": [cosine for _, cosine in found],
                }
            )
