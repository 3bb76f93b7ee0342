"""A bad update is named and left out, whatever it is; the others' mean does not feel it.

The matrix is that of the design's measurements: eight honest sites and a bad one, over the very
records that travel.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from site_updates import GATE, honest, update
from torch import Tensor

from confrere_common.arrays import PACKED, FiledArray, record
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_common.limits import Limits
from confrere_common.pack import views
from confrere_common.wire import answer_records, read_answer
from confrere_server.admission import Gate, Verdict, capped, judged, length_of
from confrere_server.rule import RULES


def mean(updates: list[Update]) -> Mapping[str, Tensor]:
    copies = (replace(one, delta={n: t.clone() for n, t in one.delta.items()}) for one in updates)
    return RULES.member("mean")(copies, RULES.configure(Named(name="mean", knobs={})))


def raw(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def with_array(name: str, data: bytes, **said: Any) -> Callable[[RecordDict], None]:
    plain = {"dtype": "float32", "shape": (7,), "stype": "numpy.ndarray", "data": data}

    def change(records: RecordDict) -> None:
        arrays = dict(records["delta"])
        records["delta"] = ArrayRecord({**arrays, name: Array(**{**plain, **said})})

    return change


def scaled(factor: float) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        arrays = {name: one.numpy() * np.float32(factor) for name, one in records["delta"].items()}
        records["delta"] = ArrayRecord({name: Array(one) for name, one in arrays.items()})

    return change


def filled(value: float) -> Callable[[RecordDict], None]:
    return with_array("b", raw(np.full(7, value, np.float32)))


def weighing(images: float) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        said = dict(records["answer"])
        records["answer"] = ConfigRecord({**said, "images": images})
        scaled(-1)(records)

    return change


def without(name: str) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        arrays = {key: one for key, one in records["delta"].items() if key != name}
        records["delta"] = ArrayRecord(arrays)

    return change


def told(count: int) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        records["metrics"] = MetricRecord({f"figure {number}": 0.0 for number in range(count)})

    return change


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
    + bytes(28)
)
OBJECT = HUGE.replace(b"<f4", b"|O ").replace(b"1000000000000", b"7            ")

MATRIX: Mapping[str, tuple[Callable[[RecordDict], None], str]] = {
    "NaN": (filled(np.nan), "holds NaN or infinite"),
    "infinity": (filled(np.inf), "holds NaN or infinite"),
    "a hundred times too long": (scaled(100), "its length is"),
    "a billion images, turned round": (weighing(10**9), "names 1000000000 images; it enrolled"),
    "minus 900 images": (weighing(-900), "it names -900 images"),
    "no images": (weighing(0), "it names 0 images"),
    "NaN images": (weighing(float("nan")), "no answer of this version"),
    "a part of an image": (weighing(99.5), "no answer of this version"),
    "a wrong shape": (with_array("b", raw(np.ones(8, np.float32))), "has shape (8,)"),
    "a shape that broadcasts": (with_array("b", raw(np.ones(1, np.float32))), "has shape (1,)"),
    "no shape": (with_array("b", raw(np.ones((), np.float32))), "has shape ()"),
    "text": (with_array("b", raw(np.array(["x"] * 7))), "no array of float32"),
    "objects": (with_array("b", OBJECT), "no array of float32"),
    "a huge header": (with_array("b", HUGE), "claims 1000000000000 entries"),
    "complex numbers": (with_array("b", raw(np.ones(7, np.complex64))), "no array of float32"),
    "doubles": (with_array("b", raw(np.ones(7))), "no array of float32"),
    "whole numbers": (with_array("b", raw(np.ones(7, np.int64))), "no array of float32"),
    "a missing tensor": (without("b"), "names differ"),
    "a tensor too many": (with_array("x", raw(np.ones(7, np.float32))), "names differ"),
    "no bytes": (with_array("b", b""), "no .npy of version"),
    "bytes cut short": (with_array("b", raw(np.ones(7, np.float32))[:-4]), "24 came"),
    "bytes too many": (with_array("b", raw(np.ones(7, np.float32)) + b"\0"), "29 came"),
    "another serialisation": (with_array("b", raw(np.ones(7, np.float32)), stype="torch"), "'b'"),
    "a thousand figures": (told(1000), "it tells 1000 figures"),
}


def plainly(one: Update) -> RecordDict:
    """Return an answer as a plain Flower client sends it: an array for each tensor."""
    records = answer_records(one)
    arrays = {name: Array(tensor.numpy()) for name, tensor in one.delta.items()}
    records["delta"] = ArrayRecord(arrays)
    return records


def arrived(change: Callable[[RecordDict], None]) -> Verdict:
    """Return what becomes of a bad site's answer, from the bytes that travel on."""
    records = plainly(update("bad", 99))
    change(records)
    return verdict_of(records)


def verdict_of(records: RecordDict) -> Verdict:
    try:
        answer = read_answer(records)
    except ExchangeError as fault:
        return Verdict(site="bad", fault=str(fault))
    assert isinstance(answer, Update)
    return judged(answer, GATE)


@pytest.mark.parametrize("what", MATRIX)
def test_the_matrix_of_attacks_leaves_the_honest_mean_as_it_is(what: str) -> None:
    change, due = MATRIX[what]

    verdict = arrived(change)
    others = [judged(one, GATE) for one in honest()]

    assert verdict.update is None
    assert due in verdict.fault
    assert all(one.fault == "" for one in others)
    joined = mean([one.update for one in others if one.update is not None])
    assert all(torch.equal(joined[name], mean(honest())[name]) for name in joined)


def packed_as(delta: Mapping[str, Tensor], length: int = 0, **changed: Any) -> bytes:
    """Return tensors as they are packed, with other words about 'b' and as many bytes more."""
    head, *rest = views(delta)
    said = json.loads(bytes(head)[8:])
    if "b" in said:
        said["b"].update(changed)
    text = json.dumps(said).encode()
    whole = len(text).to_bytes(8, "little") + text + b"".join(rest)
    return whole + bytes(length) if length >= 0 else whole[:length]


def with_b(value: Any) -> dict[str, Tensor]:
    return {**update("bad", 99).delta, "b": torch.as_tensor(value)}


SOUND = dict(update("bad", 99).delta)

PACKS: Mapping[str, tuple[bytes, str]] = {
    "NaN": (packed_as(with_b([torch.nan] * 7)), "holds NaN or infinite"),
    "infinity": (packed_as(with_b([torch.inf] * 7)), "holds NaN or infinite"),
    "too long": (packed_as({n: 100 * t for n, t in SOUND.items()}), "its length is"),
    "a wrong shape": (packed_as(with_b([1.0] * 8)), "has shape (8,)"),
    "a shape that broadcasts": (packed_as(with_b([1.0])), "has shape (1,)"),
    "no shape": (packed_as(with_b(1.0)), "has shape ()"),
    "doubles": (packed_as(with_b(torch.ones(7).double())), "no array of float32"),
    "whole numbers": (packed_as(with_b(torch.ones(7).int())), "no array of float32"),
    "complex numbers": (packed_as(SOUND, dtype="C64"), "cannot be read"),
    "a missing tensor": (packed_as({"w": SOUND["w"]}), "names differ"),
    "a tensor too many": (packed_as({**SOUND, "x": torch.ones(7)}), "names differ"),
    "a huge claim": (packed_as(SOUND, shape=[10**12]), "claims 1000000000000 entries"),
    "over another": (packed_as(SOUND, data_offsets=[0, 28]), "begins at byte"),
    "bytes cut short": (packed_as(SOUND, -4), "came"),
    "bytes too many": (packed_as(SOUND, 4), "came"),
    "no bytes": (b"", "cut short"),
    "a shape that torch has none of": (
        packed_as({**SOUND, "b": torch.ones(0)}, shape=[0, 10**30]),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("what", PACKS)
@pytest.mark.parametrize("filed", [False, True])
def test_a_bad_pack_is_left_out_wherever_it_lies(what: str, filed: bool, tmp_path: Path) -> None:
    content, due = PACKS[what]
    records = answer_records(update("bad", 99))
    said = {"dtype": "uint8", "shape": (len(content),), "stype": PACKED}
    if filed:
        (tmp_path / "pack").write_bytes(content)
        records["delta"] = record({"pack": FiledArray(said, (tmp_path / "pack").open("rb"))})
    else:
        records["delta"] = ArrayRecord({"pack": Array(**said, data=content)})

    verdict = verdict_of(records)

    assert verdict.update is None
    assert due in verdict.fault


def test_a_foreign_name_is_told_in_few_plain_marks() -> None:
    odd = "\x1b[2J\ud800" + 5000 * "x"

    verdict = verdict_of(replace_delta({**SOUND, odd: torch.ones(1)}))

    assert verdict.update is None
    assert len(verdict.fault) < 200
    assert verdict.fault.isascii()
    assert verdict.fault.isprintable()


def replace_delta(delta: Mapping[str, Tensor]) -> RecordDict:
    return answer_records(replace(update("bad", 99), delta=delta))


@pytest.mark.parametrize("name", ["x" * 65, "\x1b[2J", "a\nb"])
def test_a_figure_with_a_name_that_is_none_costs_its_site_the_round(name: str) -> None:
    verdict = judged(replace(update("bad", 99), metrics={name: 1.0}), GATE)

    assert verdict.update is None


def test_an_honest_pack_is_admitted_from_memory_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(packed_as(SOUND))
    said = {"dtype": "uint8", "shape": (1,), "stype": PACKED}
    filed = answer_records(update("bad", 99))
    filed["delta"] = record({"pack": FiledArray(said, (tmp_path / "pack").open("rb"))})

    verdicts = [verdict_of(one) for one in (filed, answer_records(update("bad", 99)))]

    assert [one.fault for one in verdicts] == ["", ""]
    lengths = {one.length for one in verdicts}
    assert len(lengths) == 1


def test_false_words_about_an_array_are_not_believed() -> None:
    good = raw(np.full(7, 0.01, np.float32))

    verdict = arrived(with_array("b", good, shape=(10**12,), dtype="object"))

    assert verdict.update is not None
    assert verdict.update.delta["b"].shape == (7,)


def test_an_honest_update_is_admitted_in_the_same_bits() -> None:
    one = update("bad")

    verdict = judged(one, replace(GATE, limits=Limits()))

    assert verdict.update is one
    assert verdict.length == pytest.approx(length_of(one.delta))


def test_hospitals_of_a_minority_keep_their_part_and_no_rule_that_drops_them_is_offered() -> None:
    """Three of one kind and two of another, all honest: Krum keeps nothing of the two."""
    kinds = [torch.tensor([1.0, 0.0])] * 3 + [torch.tensor([0.0, 1.0])] * 2
    template = {"w": torch.zeros(2)}
    gate = Gate(template=template, limits=Limits())
    updates = [
        Update(site=f"s{number}", round=1, delta={"w": kind.clone()}, images=100)
        for number, kind in enumerate(kinds)
    ]

    admitted = [verdict.update for one in updates if not (verdict := judged(one, gate)).fault]
    sound = [one for one in admitted if one is not None]
    joined = RULES.member("mean")(capped(sound, 0.4), RULES.configure(Named(name="mean", knobs={})))

    assert torch.allclose(joined["w"], torch.tensor([0.6, 0.4]))
    assert not {"krum", "multi_krum", "bulyan"} & set(RULES.names())
