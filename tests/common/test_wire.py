"""What goes over the wire comes back in bits; rubbish is told as such, and no pickle is opened."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from torch import Tensor

from confrere_common.arrays import PACKED, gathered, parts
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Part, Refusal, Task, Update
from confrere_common.pack import Filed, views
from confrere_common.proposal import Proposal, Standing
from confrere_common.weights import Weights
from confrere_common.wire import (
    answer_records,
    is_masked,
    proposal_records,
    read_answer,
    read_proposal_records,
    read_reply,
    read_request,
    read_standing_records,
    read_task,
    read_witness,
    standing_records,
    task_records,
    with_witness,
)


def weights() -> dict[str, Tensor]:
    strange = torch.tensor([0.1, -0.0, 1e-45, 3.4e38, torch.inf, torch.nan])
    strided = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    return {"z.w": strange, "a": torch.tensor(2.5), "none": torch.zeros(0, 4), "conv": strided}


def same_bits(left: Weights, right: Weights) -> bool:
    return list(left) == list(right) and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].numpy().tobytes() == right[name].numpy().tobytes()
        for name in left
    )


def told() -> ConfigRecord:
    return ConfigRecord({"site": "north", "round": 1, "images": 3})


def array(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    return ArrayRecord({"w": Array(dtype="float32", shape=(2,), stype=stype, data=data)})


def test_a_task_comes_back_in_bits() -> None:
    task = Task(run='{"name":"é"}', round=7, seed=2**63 - 1, weights=weights())

    found = read_task(task_records(task))

    assert (found.run, found.round, found.seed) == (task.run, task.round, task.seed)
    assert same_bits(found.weights, task.weights)


@pytest.mark.parametrize("part", ["test", "val"])
def test_on_whom_a_model_is_to_be_scored_comes_back(part: Part) -> None:
    task = Task(run="{}", round=2, seed=0, weights={}, evaluate=True, part=part)

    found = read_task(task_records(task))

    assert (found.evaluate, found.part, found.purpose) == (True, part, task.purpose)
    assert read_task(task_records(replace(task, evaluate=False))).purpose == "round"


def test_an_update_comes_back_in_bits() -> None:
    metrics = {"loss": 0.1, "rankme": float("inf"), "seen": 64.0}
    update = Update(site="st-ännä", round=3, delta=weights(), images=12, metrics=metrics)

    found = read_answer(answer_records(update))

    assert isinstance(found, Update)
    assert (found.site, found.round, found.images) == ("st-ännä", 3, 12)
    assert found.metrics == metrics
    assert same_bits(found.delta, update.delta)


def test_a_refusal_comes_back_whole() -> None:
    refusal = Refusal(site="north", round=3, reason="the loss was no longer a number")

    assert read_answer(answer_records(refusal)) == refusal


def test_what_came_can_be_written_to() -> None:
    task = Task(run="{}", round=1, seed=0, weights=weights())

    found = read_task(task_records(task))

    assert float(found.weights["a"].add_(1)) == 3.5
    assert float(task.weights["a"]) == 2.5


def test_a_model_of_many_small_tensors_travels_in_a_few_objects() -> None:
    many = {f"layer{number}.weight": torch.rand(16) for number in range(300)}
    task = Task(run="{}", round=1, seed=0, weights=many)
    update = Update(site="north", round=1, delta=many, images=3)

    for records in (task_records(task), answer_records(update)):
        assert len(list(parts(records))) <= 6  # requests: one for each


def test_an_update_that_came_into_a_file_is_read_from_there() -> None:
    update = Update(site="north", round=3, delta=weights(), images=12)
    records = answer_records(update)
    with no_object_id_recompute():
        kept = {name: part.deflate() for name, part in parts(records)}

    came = gathered(records.object_id, kept.__getitem__, spare=TemporaryFile)
    assert isinstance(came, RecordDict)
    found = read_answer(came)
    del came

    assert isinstance(found, Update)
    assert isinstance(found.delta, Filed)
    assert same_bits(found.delta, update.delta)


def pack_record(content: bytes, stype: str = PACKED, name: str = "pack") -> ArrayRecord:
    shape = (len(content),)
    return ArrayRecord({name: Array(dtype="uint8", shape=shape, stype=stype, data=content)})


def content_of(tensors: Weights) -> bytes:
    return b"".join(views(tensors))


@pytest.mark.parametrize(
    "delta",
    [
        pack_record(b""),
        pack_record(b"rubbish"),
        pack_record(content_of(weights())[:-1]),
        pack_record(content_of(weights()) + b"x"),
        pack_record(content_of(weights()), stype="confrere.pack.2"),
        pack_record(content_of(weights()), stype="numpy.ndarray"),
        pack_record(content_of(weights()), name="other"),
        pack_record(content_of({"w": torch.ones(2, dtype=torch.float64)})),
        pack_record(content_of({"w": torch.ones(2, dtype=torch.int64)})),
    ],
)
def test_a_pack_of_another_version_or_type_or_length_is_refused(delta: ArrayRecord) -> None:
    records = RecordDict({"answer": told(), "delta": delta, "metrics": MetricRecord()})

    with pytest.raises(ExchangeError):
        read_answer(records)


def without_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def test_no_pickle_is_written_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pickles(monkeypatch)
    records = task_records(Task(run="{}", round=1, seed=0, weights=weights()))

    found = read_task(records)

    assert same_bits(found.weights, weights())
    assert list(records.array_records) == ["weights"]


class Bomb:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_an_array_of_pickled_objects_is_refused_unopened(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Bomb(tmp_path / "bang")], dtype=object), allow_pickle=True)
    whole, bare = file.getvalue(), pickle.dumps(Bomb(tmp_path / "bang"))

    for data in (whole, bare):
        records = RecordDict({"answer": told(), "delta": array(data), "metrics": MetricRecord()})
        with pytest.raises(ExchangeError, match="'w' is no array"):
            read_answer(records)

    assert not (tmp_path / "bang").exists()


def saved(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


GOOD = saved(np.zeros(2, np.float32))
HUGE = GOOD.replace(b"(2,), }" + b" " * 14, b"(" + b"9" * 15 + b",), }")


@pytest.mark.parametrize(
    "delta",
    [
        array(b""),
        array(b"rubbish"),
        array(b"PK\x03\x04 no archive"),
        array(b"\x93NUMPY\x01\x00"),
        array(GOOD[:-1]),
        array(HUGE),
        array(saved(np.array(["text"]))),
        array(GOOD, stype="torch.Tensor"),
        ConfigRecord({"w": "text"}),
        MetricRecord({"w": 1.0}),
    ],
)
def test_a_delta_that_holds_no_arrays_is_told_as_such(delta: ArrayRecord) -> None:
    records = RecordDict({"answer": told(), "delta": delta, "metrics": MetricRecord()})

    with pytest.raises(ExchangeError, match="'w' is no array"):
        read_answer(records)


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"answer": ConfigRecord()}),
        RecordDict({"answer": ArrayRecord()}),
        RecordDict({"answer": told()}),
        RecordDict({"answer": told(), "delta": ArrayRecord()}),
        RecordDict({"answer": ConfigRecord({"site": "north", "round": "first", "reason": ""})}),
        RecordDict({"answer": ConfigRecord({"site": "north", "round": float("inf")})}),
        RecordDict({"answer": ConfigRecord({"site": "north", "round": [1, 2]})}),
        RecordDict(
            {
                "answer": told(),
                "delta": ArrayRecord(),
                "metrics": MetricRecord({"loss": [1.0, 2.0]}),
            }
        ),
        RecordDict(
            {"answer": told(), "delta": ArrayRecord(), "metrics": ConfigRecord({"loss": "low"})}
        ),
    ],
)
def test_rubbish_is_no_answer(records: RecordDict) -> None:
    with pytest.raises(ExchangeError, match="what came"):
        read_answer(records)


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"task": ConfigRecord(), "weights": ArrayRecord()}),
        RecordDict({"task": ConfigRecord({"run": "{}", "round": 1, "seed": 0})}),
        RecordDict(
            {
                "task": ConfigRecord({"run": "{}", "round": "x", "seed": 0}),
                "weights": ArrayRecord(),
            }
        ),
        RecordDict(
            {
                "task": ConfigRecord({"run": "{}", "round": 1, "seed": 0, "evaluate": "train"}),
                "weights": ArrayRecord(),
            }
        ),
        answer_records(Refusal(site="north", round=1, reason="no")),
    ],
)
def test_rubbish_is_no_task(records: RecordDict) -> None:
    with pytest.raises(ExchangeError, match="what came"):
        read_task(records)


# ------------------------------------------------------------ proposals, standings, witnesses


PROPOSAL = Proposal(
    run_id="run-1", study="eyes", run="{}", code="ab" * 32, sites=3, bytes_down=1, bytes_up=2,
    seed=0,
)  # fmt: skip
HEAD = "0f" * 32


def test_a_proposal_and_a_standing_come_back_as_they_were() -> None:
    standing = Standing(site="north", state="waiting", code="not-approved", images=0)

    assert read_proposal_records(sent(proposal_records(PROPOSAL))) == PROPOSAL
    assert read_standing_records(sent(standing_records(standing))) == standing


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "NaN", "[" * 5000, "x" * 2_000_001])
def test_rubbish_is_no_proposal_and_no_standing(text: str) -> None:
    for name, read in (("proposal", read_proposal_records), ("standing", read_standing_records)):
        for records in (RecordDict({name: ConfigRecord({"json": text})}), RecordDict()):
            with pytest.raises(ExchangeError):
                read(records)
        with pytest.raises(ExchangeError):
            read(RecordDict({name: array(b"rubbish")}))


def test_a_standing_says_no_code_that_is_not_in_the_table() -> None:
    leaky = Standing(site="north", state="refused", code="smith-john", images=0)

    with pytest.raises(ExchangeError):
        standing_records(leaky)


def test_a_witness_goes_along_and_comes_back() -> None:
    records = sent(with_witness(answer_records(Refusal(site="n", round=1, reason="r")), 7, HEAD))

    assert read_witness(records) == (7, HEAD)
    assert isinstance(read_answer(records), Refusal)


@pytest.mark.parametrize(
    "witness",
    [
        ConfigRecord(),
        ConfigRecord({"length": float("inf"), "head": HEAD}),
        ConfigRecord({"length": float("nan"), "head": HEAD}),
        ConfigRecord({"length": True, "head": HEAD}),
        ConfigRecord({"length": -1, "head": HEAD}),
        ConfigRecord({"length": "7", "head": HEAD}),
        ConfigRecord({"length": [7], "head": HEAD}),
        ConfigRecord({"length": 7, "head": HEAD.encode()}),
        ConfigRecord({"length": 7, "head": "\x1b]0;owned\x07"}),
        ConfigRecord({"length": 7, "head": HEAD + "\n"}),
        ConfigRecord({"length": 7, "head": "x" * 64}),
        MetricRecord({"length": 7, "head": 7.0}),
        ArrayRecord({"length": Array(np.zeros(3))}),
    ],
)
def test_rubbish_is_no_witness(witness: ConfigRecord) -> None:
    assert read_witness(RecordDict({"witness": witness})) == (0, "")
    assert read_witness(RecordDict()) == (0, "")


def test_a_reason_from_outside_is_one_short_printable_line() -> None:
    said = "\x1b]0;owned\x07\n2026 INFO all is well\u202e" + "x" * 3000

    found = read_answer(answer_records(Refusal(site="n", round=1, reason=said)))

    assert isinstance(found, Refusal)
    assert found.reason.startswith("?]0;owned? 2026 INFO all is well?xxx")
    assert found.reason.isprintable()
    assert len(found.reason) == 1000


@pytest.mark.parametrize(
    "masked",
    [
        ConfigRecord(),
        ConfigRecord({"kind": "Signed"}),
        ConfigRecord({"kind": "Signed", "body": b"rubbish"}),
        ConfigRecord({"kind": "Signed", "body": "text"}),
        ConfigRecord({"kind": ["Signed"], "body": b"{}"}),
        ConfigRecord({"kind": "Answer", "body": b"{}"}),
        ConfigRecord({"kind": "vector"}),
        ArrayRecord({"kind": Array(np.zeros(2))}),
    ],
)
def test_rubbish_is_no_part_of_a_masked_round(masked: ConfigRecord) -> None:
    records = RecordDict({"masked": masked})

    with pytest.raises(ExchangeError):
        read_reply(records)
    with pytest.raises(ExchangeError):
        read_request(records)
    assert is_masked(records)


def sent(records: RecordDict) -> RecordDict:
    """Return what arrives on the other side."""
    return recorddict_from_proto(recorddict_to_proto(records))
