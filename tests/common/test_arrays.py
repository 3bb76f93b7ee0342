"""Arrays that share their tensor's memory are Flower's to the last byte, and are read as they come.

A contract with Flower's inner parts, pinned to flwr 1.41. When the pin moves, compare
``common/confrere_common/arrays.py`` with the new flwr's
``app/message/{array,arraychunk,arrayrecord}.py`` and ``supercore/inflatable``.
"""

import io
import json
import pickle
import tracemalloc
from tempfile import TemporaryFile
from typing import BinaryIO

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

from confrere_common.arrays import (
    HEAD_ENDS,
    NUMPY,
    PACKED,
    PIECE,
    FiledArray,
    RawArray,
    gathered,
    most_bytes,
    packed,
    parts,
    record,
)
from confrere_common.errors import ExchangeError
from confrere_common.pack import Filed, raw, unpacked

MIB = 2**20

TENSORS = {
    "long": torch.arange(PIECE // 4 + 1000, dtype=torch.float32),
    "just one piece": torch.rand((PIECE - 128) // 4),
    "a number": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "strided": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "half": torch.rand(3, 3).half(),
}


def npy(tensor: Tensor) -> RawArray:
    """Return the array that Flower makes of a tensor."""
    file = io.BytesIO()
    np.save(file, tensor.contiguous().numpy())
    kind = {"dtype": str(tensor.numpy().dtype), "shape": tuple(tensor.shape), "stype": NUMPY}
    return RawArray([file.getvalue()], **kind)  # type: ignore[arg-type]


def said(**tensors: Tensor) -> RecordDict:
    arrays = record({name: npy(tensor) for name, tensor in tensors.items()})
    return RecordDict({"weights": arrays, "more": ConfigRecord({"a": 1})})


def model(**tensors: Tensor) -> RecordDict:
    return RecordDict({"weights": record({"pack": packed(tensors)})})


def contents(records: RecordDict) -> dict[str, bytes]:
    with no_object_id_recompute():
        return {name: part.deflate() for name, part in parts(records)}


@pytest.mark.parametrize("name", TENSORS)
def test_an_array_holds_the_bytes_that_flowers_own_holds(name: str) -> None:
    tensor = TENSORS[name]

    ours, theirs = npy(tensor), Array(tensor.contiguous().numpy())

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
    found = pickle.loads(pickle.dumps(npy(TENSORS["strided"])))  # noqa: S301

    assert type(found) is Array
    np.testing.assert_array_equal(found.numpy(), TENSORS["strided"].numpy())


def test_sending_takes_no_copy_of_the_model_and_reading_takes_one_or_a_file() -> None:
    size = 32 * MIB
    tensor = torch.rand(size // 4)
    kept = contents(model(w=tensor))
    tracemalloc.start()

    records = model(w=tensor)
    with no_object_id_recompute():
        for _, part in parts(records):
            part.deflate()
    sending = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    gathered(records.object_id, kept.__getitem__)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    gathered(records.object_id, kept.__getitem__, spare=TemporaryFile)
    laying_down = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert sending < 4 * PIECE
    assert laying_down < 4 * PIECE
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


def array_in(sent: dict[str, bytes]) -> tuple[str, bytes]:
    return next((name, one) for name, one in sent.items() if one.startswith(b"Array "))


def renamed(sent: dict[str, bytes], array: str, body: object) -> dict[str, bytes]:
    """Return *sent* with another body in the one array, whose head stays."""
    head = sent[array].split(HEAD_ENDS)[0].split(b" ")
    content = json.dumps(body).encode()
    head[-1] = str(len(content)).encode()
    return {**sent, array: b" ".join(head) + HEAD_ENDS + content}


def body_of(content: bytes) -> dict[str, object]:
    return dict(json.loads(content.split(HEAD_ENDS, 1)[1]))


def test_a_piece_that_is_named_a_million_times_is_not_read_so_often() -> None:
    records = said(w=torch.rand(200_000))  # one piece
    sent = contents(records)
    name, array = array_in(sent)
    forged = renamed(sent, name, {**body_of(array), "arraychunk_ids": [0] * 1_000_000})
    asked: list[str] = []

    def get(part: str) -> bytes:
        asked.append(part)
        return forged[part]

    with pytest.raises(ExchangeError, match="more than 10000000 bytes"):
        gathered(records.object_id, get, 10_000_000)
    assert len(asked) < 20


def test_an_array_that_claims_many_pieces_takes_no_memory_for_those_that_may_not_come() -> None:
    sent = contents(said(w=torch.rand(200_000)))
    name, array = array_in(sent)
    forged = renamed(sent, name, {**body_of(array), "arraychunk_ids": [0] * 200})

    tracemalloc.start()
    with pytest.raises(ExchangeError, match="more than 3000000 bytes"):
        gathered(name, forged.__getitem__, 3_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 10_000_000


@pytest.mark.parametrize("numbers", [[], [1], [-1], [0, 1], [True], [0.0], ["0"]])
def test_an_array_that_names_other_pieces_than_its_own_is_refused(numbers: list[object]) -> None:
    sent = contents(said(w=TENSORS["a number"]))
    name, array = array_in(sent)
    forged = renamed(sent, name, {**body_of(array), "arraychunk_ids": numbers})

    with pytest.raises(ExchangeError, match="other pieces"):
        gathered(name, forged.__getitem__)


def test_one_array_under_many_names_counts_as_often() -> None:
    tensor = torch.rand(MIB // 4)
    shared = npy(tensor)
    records = RecordDict({"weights": record({f"w{number}": shared for number in range(50)})})

    with pytest.raises(ExchangeError, match="more than"):
        gathered(records.object_id, contents(records).__getitem__, 10 * MIB)


@pytest.mark.parametrize("sizes", [[3 * PIECE], [1] * 300, [0], [PIECE // 4, PIECE // 4]])
def test_an_honest_message_fits_its_budget_equal_pieces_and_all(sizes: list[int]) -> None:
    tensors = {f"w{number}": torch.zeros(size) for number, size in enumerate(sizes)}
    records = said(**tensors)

    found = gathered(records.object_id, contents(records).__getitem__, most_bytes(4 * sum(sizes)))

    assert isinstance(found, RecordDict)
    assert {name: one.numpy().size for name, one in found["weights"].items()} == {
        name: tensor.numel() for name, tensor in tensors.items()
    }


# ------------------------------------------------------------------------------ packed


def test_hundreds_of_small_tensors_are_a_handful_of_objects() -> None:
    tensors = {f"layer{number}.bias": torch.rand(64) for number in range(300)}

    assert len(contents(model(**tensors))) == 4  # a piece, the array, its record, the records
    assert len(contents(said(**tensors))) > 600


def test_packed_tensors_come_back_in_bits_over_flowers_reader_ours_and_a_file() -> None:
    sent = contents(model(**TENSORS))
    name = model(**TENSORS).object_id

    theirs = inflate_object_from_contents(name, dict(sent))
    ours = gathered(name, sent.__getitem__)
    filed = gathered(name, sent.__getitem__, spare=TemporaryFile)

    for found in (theirs, ours, filed):
        assert isinstance(found, RecordDict)
        array = found["weights"]["pack"]
        assert array.stype == PACKED
        back = unpacked(bytearray(array.data))[0]
        assert list(back) == list(TENSORS)
        assert all(torch.equal(back[key], tensor) for key, tensor in TENSORS.items())


def test_what_lies_in_a_file_is_read_tensor_by_tensor_into_memory_of_its_own() -> None:
    found = gathered(
        model(**TENSORS).object_id, contents(model(**TENSORS)).__getitem__, spare=TemporaryFile
    )
    assert isinstance(found, RecordDict)
    array = found["weights"]["pack"]
    assert isinstance(array, FiledArray)

    filed = Filed(array.file)
    filed["long"].fill_(7)

    assert list(filed) == list(TENSORS)
    assert all(torch.equal(filed[key], tensor) for key, tensor in TENSORS.items())


def test_a_message_takes_one_file_however_many_arrays_it_has() -> None:
    many = RecordDict({"weights": record({str(n): packed({"w": torch.ones(n)}) for n in range(4)})})
    opened: list[int] = []

    def spare() -> BinaryIO:
        opened.append(1)
        return TemporaryFile()

    found = gathered(many.object_id, contents(many).__getitem__, spare=spare)

    assert len(opened) == 1
    assert isinstance(found, RecordDict)
    assert all(len(array.data) > 0 for array in found["weights"].values())


def test_a_tensor_is_sent_from_its_own_memory() -> None:
    tensor = torch.rand(PIECE)

    shares = raw(tensor)
    tensor.zero_()

    assert not any(shares)
