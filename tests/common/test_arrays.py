"""Arrays that share their tensor's memory are Flower's to the last byte, and are read as they come.

A contract with Flower's inner parts, pinned to flwr 1.41. When the pin moves, compare
``common/confrere_common/arrays.py`` with the new flwr's
``app/message/{array,arraychunk,arrayrecord}.py`` and ``supercore/inflatable``.
"""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    validate_object_content,
)
from torch import Tensor

from confrere_common.arrays import PIECE, TensorArray, gathered, parts, record
from confrere_common.errors import ExchangeError

MIB = 2**20

TENSORS = {
    "long": torch.arange(PIECE // 4 + 1000, dtype=torch.float32),
    "just one piece": torch.rand((PIECE - 128) // 4),
    "a number": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "strided": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "half": torch.rand(3, 3).half(),
}


def said(**tensors: Tensor) -> RecordDict:
    arrays = record({name: TensorArray(tensor) for name, tensor in tensors.items()})
    return RecordDict({"weights": arrays, "more": ConfigRecord({"a": 1})})


def contents(records: RecordDict) -> dict[str, bytes]:
    with no_object_id_recompute():
        return {name: part.deflate() for name, part in parts(records)}


@pytest.mark.parametrize("name", TENSORS)
def test_an_array_holds_the_bytes_that_flowers_own_holds(name: str) -> None:
    tensor = TENSORS[name]

    ours, theirs = TensorArray(tensor), Array(tensor.contiguous().numpy())

    assert ours.data == theirs.data
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)


@pytest.mark.parametrize("name", TENSORS)
def test_flower_reads_what_we_send_and_we_read_it_too(name: str) -> None:
    records = said(w=TENSORS[name])
    sent = contents(records)

    theirs = inflate_object_from_contents(records.object_id, dict(sent))
    ours = gathered(records.object_id, sent.__getitem__)

    assert isinstance(theirs, RecordDict)
    assert isinstance(ours, RecordDict)
    for found in (theirs, ours):
        np.testing.assert_array_equal(found["weights"]["w"].numpy(), TENSORS[name].numpy())
        assert dict(found["more"]) == {"a": 1}


def test_every_part_has_the_name_that_flower_gives_it() -> None:
    records = said(w=TENSORS["long"], v=TENSORS["a number"])

    sent = contents(records)

    tree = get_object_tree(records)
    assert set(sent) == {node.object_id for node in iterate_object_tree(tree)}
    for name, content in sent.items():
        assert get_object_id(content) == name
        validate_object_content(content)


def test_what_is_smaller_comes_first() -> None:
    names = [name for name, _ in parts(said(w=TENSORS["long"]))]

    tree = get_object_tree(said(w=TENSORS["long"]))
    assert names == [node.object_id for node in iterate_object_tree(tree)]


def test_we_read_what_flower_sends() -> None:
    values = np.random.default_rng(0).random(3 * MIB, np.float32)
    records = RecordDict({"w": ArrayRecord({"x": Array(values)})})

    found = gathered(records.object_id, contents(records).__getitem__)

    assert isinstance(found, RecordDict)
    np.testing.assert_array_equal(found["w"]["x"].numpy(), values)


def test_an_array_goes_to_another_process_as_flowers_own() -> None:
    found = pickle.loads(pickle.dumps(TensorArray(TENSORS["strided"])))  # noqa: S301

    assert type(found) is Array
    np.testing.assert_array_equal(found.numpy(), TENSORS["strided"].numpy())


def test_sending_takes_no_copy_of_the_model_and_reading_takes_one() -> None:
    size = 32 * MIB
    tensor = torch.rand(size // 4)
    kept = contents(said(w=tensor))
    tracemalloc.start()

    records = said(w=tensor)
    with no_object_id_recompute():
        for _, part in parts(records):
            part.deflate()
    sending = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    gathered(records.object_id, kept.__getitem__)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert sending < 4 * PIECE
    assert reading < 1.3 * size  # a bytearray that grows takes an eighth more than it holds


def test_an_array_made_of_something_else_than_pieces_is_told_as_such() -> None:
    records = said(w=TENSORS["a number"])
    sent = contents(records)
    config = ConfigRecord({"a": 1})
    name, array = next((n, c) for n, c in sent.items() if c.startswith(b"Array "))
    piece = array.split(b" ")[1].decode()
    forged = {**sent, piece: config.deflate()}

    with pytest.raises(ExchangeError, match="something else than pieces"):
        gathered(name, forged.__getitem__)


def test_a_part_that_stands_in_many_places_is_read_once() -> None:
    # Else a few objects that each name the one below twice would take years to read.
    asked: list[str] = []
    records = said(w=TENSORS["a number"], v=TENSORS["a number"].clone())
    sent = contents(records)

    def get(name: str) -> bytes:
        asked.append(name)
        return sent[name]

    gathered(records.object_id, get)

    assert len(asked) == len(set(asked))
