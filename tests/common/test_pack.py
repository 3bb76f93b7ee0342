"""Packed tensors are safetensors' own layout, and what is none is told before it is allocated."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from confrere_common.errors import ExchangeError
from confrere_common.pack import TYPES, Filed, cut, places, unpacked, views

TENSORS: dict[str, Tensor] = {
    "odd": torch.arange(3, dtype=torch.uint8),
    "w": torch.rand(5, 3),
    "wide": torch.rand(2, dtype=torch.float64),
    "number": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "short": torch.rand(3).to(torch.bfloat16),
    "yes": torch.tensor([True, False]),
}


def pack(tensors: dict[str, Tensor], **said: str) -> bytes:
    return b"".join(views(tensors, said))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left
    )


def test_safetensors_reads_what_we_write() -> None:
    assert same(load(pack(TENSORS, task="t")), TENSORS)


def test_we_read_what_safetensors_writes() -> None:
    found, said = unpacked(bytearray(save(TENSORS, metadata={"a": "b"})))

    assert same(found, TENSORS)
    assert said == {"a": "b"}


def test_the_order_of_names_stays() -> None:
    assert list(unpacked(bytearray(pack(TENSORS)))[0]) == list(TENSORS)


def test_every_tensor_begins_where_its_type_may_begin() -> None:
    table = json.loads(pack(TENSORS)[8:].split(b"}}")[0] + b"}}")

    for entry in table.values():
        assert entry["data_offsets"][0] % TYPES[entry["dtype"]].itemsize == 0


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 17))
@settings(deadline=None, max_examples=50)
def test_runs_are_all_of_one_length_but_the_last(parts: list[bytes], size: int) -> None:
    runs = [b"".join(run) for run in cut(parts, size)]

    assert b"".join(runs) == b"".join(parts)
    assert all(len(run) == size for run in runs[:-1])
    assert all(0 < len(run) <= size for run in runs[-1:])


def forged(entry: dict[str, Any], size: int = 8) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}})
    return len(text).to_bytes(8, "little") + text.encode() + b"\0" * size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        b"\xff" * 8,
        (5).to_bytes(8, "little") + b"[[[[[",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        forged({}, size=9),
        forged({}, size=7),
        forged({"shape": [10**15]}),
        forged({"shape": [2**62, 4]}),
        forged({"shape": [-2]}),
        forged({"shape": [2.0]}),
        forged({"shape": [True, 2]}),
        forged({"shape": "22"}),
        forged({"shape": [1] * 9 + [2]}),
        forged({"shape": [0, 10**30], "data_offsets": [0, 0]}, size=0),
        forged({"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}, size=0),
        forged({"dtype": "C64"}),
        forged({"dtype": ["F32"]}),
        forged({"data_offsets": [8, 16]}, size=16),
        forged({"data_offsets": [0, 8, 8]}),
        forged({"data_offsets": [8, 0]}),
        forged({"more": 1}),
    ],
)
def test_what_is_no_pack_is_told_as_such(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(content)

    with pytest.raises(ExchangeError):
        unpacked(bytearray(content))
    with path.open("rb") as file, pytest.raises(ExchangeError):
        Filed(file)


def test_a_name_that_stands_twice_is_refused() -> None:
    one = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

    with pytest.raises(ExchangeError):
        places(f"{{{one},{one}}}".encode(), 4)


def test_tensors_that_lie_over_one_another_are_refused() -> None:
    table = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": offsets}
        for name, offsets in {"a": [0, 8], "b": [4, 12]}.items()
    }

    with pytest.raises(ExchangeError, match="begins at byte 4"):
        places(json.dumps(table).encode(), 12)


def test_a_head_of_brackets_without_end_is_refused() -> None:
    text = b"[" * 100_000

    with pytest.raises(ExchangeError):
        unpacked(bytearray(len(text).to_bytes(8, "little") + text))


def test_a_file_that_shrinks_under_a_reader_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(pack({"w": torch.rand(100)}))
    with path.open("rb") as file:
        filed = Filed(file)
        path.write_bytes(b"")

        with pytest.raises(ExchangeError, match="cut short"):
            filed["w"]
