"""An index tells what lies nearest, of other patients alone, and only to its own network."""

from pathlib import Path

import numpy as np
import pytest

from confrere_client.predict.index import MADE_BY, Index, is_index, read_index, said
from confrere_client.predict.nearest import nearest
from confrere_client.predict.table import TEXT, WHOLE, open_table, vector
from confrere_common.errors import ConfigError, DataError


def index(features: np.ndarray, owners: list[int]) -> Index:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return Index(
        ids=[f"i{n}" for n in range(len(unit))], owners=owners, features_GF=unit.astype(np.float32)
    )


def test_the_nearest_come_first_and_none_of_the_same_patient() -> None:
    gallery = index(np.array([[1, 0], [1, 0.1], [0, 1], [1, 0.2]]), [7, 8, 9, 8])
    query = index(np.array([[1, 0], [0, 1]]), [7, 1])

    first, second = nearest(query, gallery, 2)

    assert [place for place, _ in first] == [1, 3]  # 0 is the query's own
    assert [place for place, _ in second] == [2, 3]
    assert second[0][1] == pytest.approx(1)


def test_fewer_are_found_where_fewer_are_left() -> None:
    gallery = index(np.eye(2), [1, 2])

    assert [len(found) for found in nearest(index(np.eye(2), [1, 3]), gallery, 5)] == [1, 2]
    assert list(nearest(index(np.eye(2), [1, 3]), Index.joined([]), 5)) == [[], []]


def test_an_index_is_read_by_the_network_that_made_it(tmp_path: Path) -> None:
    path, made = tmp_path / "index.parquet", index(np.random.default_rng(0).normal(size=(9, 4)),
                                                   [*range(9)])  # fmt: skip
    columns = {"id": TEXT, "owner": WHOLE, "features": vector(4)}
    with open_table(path, columns, said("ab")) as table:
        for half in (slice(0, 5), slice(5, 9)):
            table.add(
                {"id": made.ids[half], "owner": made.owners[half],
                 "features": list(made.features_GF[half])}
            )  # fmt: skip

    found = read_index(path, "ab")

    assert is_index(path)
    assert (found.ids, found.owners) == (made.ids, made.owners)
    assert np.array_equal(found.features_GF, made.features_GF)
    with pytest.raises(ConfigError, match="was made by another network"):
        read_index(path, "cd")


def test_other_tables_are_no_index(tmp_path: Path) -> None:
    with open_table(tmp_path / "catalog.parquet", {"path": TEXT}) as table:
        table.add({"path": ["a.png"]})
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")

    assert not is_index(tmp_path / "catalog.parquet")
    assert not is_index(tmp_path / "torn.parquet")
    assert not is_index(tmp_path)
    with pytest.raises(DataError, match="is no index"):
        read_index(tmp_path / "catalog.parquet", "ab")
    assert MADE_BY in said("ab")
