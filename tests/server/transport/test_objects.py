"""Objects on their way: large ones in files, named by their digest, gone when nobody needs them."""

import hashlib
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.object_store import NoObjectInStoreError
from hypothesis import given, settings
from hypothesis import strategies as st
from wired import model

from confrere_server.transport.objects import SMALL, ObjectFiles

RUN = 1


@pytest.fixture
def store(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "objects")


def laid_in(store: ObjectFiles, records: RecordDict) -> dict[str, bytes]:
    store.preregister(RUN, get_object_tree(records))
    contents = {name: part.deflate() for name, part in get_all_nested_objects(records).items()}
    for name, content in contents.items():
        store.put(name, content)
    return contents


def files(store: ObjectFiles) -> set[str]:
    return {path.name for path in store._folder.iterdir()}


def test_large_objects_lie_in_files_and_small_ones_in_memory(store: ObjectFiles) -> None:
    contents = laid_in(store, model(2))

    large = {name for name, content in contents.items() if len(content) > SMALL}
    assert files(store) == large
    assert len(large) == 2
    assert {name: store.get(name) for name in contents} == contents
    assert sum(len(entry.content) for entry in store.store.values()) < SMALL


def test_an_object_is_whole_when_all_of_it_is_here(store: ObjectFiles) -> None:
    records = model(1)
    store.preregister(RUN, get_object_tree(records))
    contents = {name: p.deflate() for name, p in get_all_nested_objects(records).items()}

    for name, content in contents.items():
        assert not store.whole(records.object_id)
        store.put(name, content)
    assert store.whole(records.object_id)
    assert not store.whole("0" * 64)


def test_what_only_it_refers_to_goes_with_an_object(store: ObjectFiles) -> None:
    shared = model(1)["weights"]
    one = RecordDict({"weights": shared})  # type: ignore[dict-item]
    two = RecordDict({"other": shared})  # type: ignore[dict-item]
    laid_in(store, one)
    laid_in(store, two)

    store.delete(one.object_id)
    assert len(files(store)) == 1
    assert store.whole(two.object_id)
    store.delete(two.object_id)
    assert files(store) == set()
    assert len(store) == 0


def test_clearing_leaves_nothing(store: ObjectFiles) -> None:
    laid_in(store, model(2))

    store.clear()

    assert files(store) == set()
    assert len(store) == 0


def test_a_content_under_another_name_is_refused(store: ObjectFiles) -> None:
    name = hashlib.sha256(b"x").hexdigest()
    store.preregister(RUN, ObjectTree(object_id=name))

    with pytest.raises(ValueError, match="does not match"):
        store.put(name, b"y" * (SMALL + 1))
    assert files(store) == set()


def test_what_was_not_announced_is_refused(store: ObjectFiles) -> None:
    content = Array("float32", (2000,), "numpy.ndarray", bytes(8000))
    part = next(iter(get_all_nested_objects(ArrayRecord({"w": content})).items()))

    with pytest.raises(NoObjectInStoreError):
        store.put(part[0], part[1].deflate())
    assert files(store) == set()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a" * 63, "g" * 64, "\x00"])
def test_a_name_that_is_no_digest_is_refused(store: ObjectFiles, name: str) -> None:
    with pytest.raises(ValueError, match="Invalid object ID"):
        store.preregister(RUN, ObjectTree(object_id=name))
    store.delete(name)
    assert store.get(name) is None


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


TREES = st.recursive(
    st.integers(0, 9).map(lambda n: ObjectTree(object_id=digest(n))),
    lambda below: st.builds(
        lambda n, children: ObjectTree(object_id=digest(n), children=children),
        st.integers(0, 9),
        st.lists(below, max_size=3),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(TREES, min_size=1, max_size=4))
def test_whatever_trees_come_all_of_them_can_be_removed(
    tmp_path_factory: pytest.TempPathFactory, trees: list[ObjectTree]
) -> None:
    store = ObjectFiles(tmp_path_factory.mktemp("objects"))
    for tree in trees:
        store.preregister(RUN, tree)
        store.whole(tree.object_id)

    for tree in trees:
        for node in iterate_object_tree(tree):
            store.delete(node.object_id)
    store.delete_objects_in_run(RUN)

    assert len(store) == 0
