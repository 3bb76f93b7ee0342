"""What lies nearest to an image among those of an index.

Shapes: Q queries, G images of the index.
"""

from collections.abc import Iterator

import numpy as np

from confrere_client.predict.index import Index


def nearest(queries: Index, index: Index, count: int) -> Iterator[list[tuple[int, float]]]:
    """Yield, for each query, places in the index and cosines of its *count* nearest, nearest first.

    Fewer where fewer are left once those of the query's own patient are taken out. Of equally near
    ones the first in the index stands first.
    """
    whose_G = np.array(index.owners, np.int64)
    close_QG = queries.features_GF @ index.features_GF.T if len(whose_G) else np.empty(
        (len(queries.ids), 0), np.float32
    )  # fmt: skip
    for owner, close_G in zip(queries.owners, close_QG, strict=True):
        ranked = np.argsort(np.where(whose_G == owner, np.inf, -close_G), kind="stable")
        left = int((whose_G != owner).sum())
        yield [(int(place), float(close_G[place])) for place in ranked[: min(count, left)]]
