"""Tasks and answers <-> Flower records: arrays as .npy bytes, plain values, never a pickle."""

from typing import Any, TypeAlias

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.weights import Weights

Reply: TypeAlias = RecordDict


def task_records(task: Task) -> RecordDict:
    """Return *task* as Flower records."""
    said: dict[str, str | int] = {"run": task.run, "round": task.round, "seed": task.seed}
    return RecordDict({"weights": _arrays(task.weights), "task": ConfigRecord({**said})})


def read_task(records: RecordDict) -> Task:
    """Return the task in Flower records; ExchangeError when it is none."""
    said = _part(records, "task")
    try:
        return Task(
            run=str(said["run"]),
            round=int(said["round"]),
            seed=int(said["seed"]),
            weights=_weights(_part(records, "weights")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise ExchangeError(f"what came is no task of this version: {fault}") from None


def answer_records(answer: Answer) -> RecordDict:
    """Return an update or a refusal as Flower records."""
    said: dict[str, str | int] = {"site": answer.site, "round": answer.round}
    if isinstance(answer, Refusal):
        return RecordDict({"answer": ConfigRecord({**said, "reason": answer.reason})})
    return RecordDict(
        {
            "answer": ConfigRecord({**said, "images": answer.images}),
            "delta": _arrays(answer.delta),
            "metrics": MetricRecord(dict(answer.metrics)),
        }
    )


def read_answer(records: RecordDict) -> Answer:
    """Return the answer in Flower records; ExchangeError when it is none."""
    said = _part(records, "answer")
    try:
        site, number = str(said["site"]), int(said["round"])
        if "reason" in said:
            return Refusal(site=site, round=number, reason=str(said["reason"]))
        return Update(
            site=site,
            round=number,
            delta=_weights(_part(records, "delta")),
            images=int(said["images"]),
            metrics={name: float(value) for name, value in _part(records, "metrics").items()},
        )
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise ExchangeError(f"what came is no answer of this version: {fault}") from None


def _part(records: RecordDict, name: str) -> Any:
    if name not in records:
        raise ExchangeError(f"what came has no part '{name}'; it has {sorted(records)}")
    return records[name]


def _arrays(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in weights.items()})


def _weights(arrays: ArrayRecord) -> dict[str, torch.Tensor]:
    return {name: _tensor(name, array) for name, array in arrays.items()}


def _tensor(name: str, array: Array) -> torch.Tensor:
    try:
        return torch.from_numpy(array.numpy())
    except Exception as fault:  # foreign bytes make numpy fail in any way; see load
        raise ExchangeError(f"'{name}' is no array: {type(fault).__name__}") from None
