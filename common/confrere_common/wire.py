"""Tasks and answers <-> Flower records: arrays as .npy bytes, plain values, never a pickle.

Reading consumes the records: arrays leave them as they become tensors.
"""

import json
from typing import Any, TypeAlias

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.proposal import Proposal, Standing, read_proposal, read_standing
from confrere_common.weights import Weights

Reply: TypeAlias = RecordDict

MOST_JSON = 2_000_000
"""Characters of the longest proposal that is read."""


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


def proposal_records(proposal: Proposal) -> RecordDict:
    """Return a proposal as Flower records."""
    return RecordDict({"proposal": ConfigRecord({"json": json.dumps(proposal.as_dict())})})


def read_proposal_records(records: RecordDict) -> Proposal:
    """Return the proposal in Flower records; ExchangeError when it is none."""
    return read_proposal(_json(_part(records, "proposal")))


def standing_records(standing: Standing) -> RecordDict:
    """Return what a site says of a proposal as Flower records."""
    return RecordDict({"standing": ConfigRecord({"json": json.dumps(standing.as_dict())})})


def read_standing_records(records: RecordDict) -> Standing:
    """Return what a site says of a proposal; ExchangeError when it is nothing of that kind."""
    return read_standing(_json(_part(records, "standing")))


def with_witness(records: RecordDict, length: int, head: str) -> RecordDict:
    """Add the sender's audit head to what is sent, for the other side to keep as a witness."""
    records["witness"] = ConfigRecord({"length": length, "head": head})
    return records


def read_witness(records: RecordDict) -> tuple[int, str]:
    """Return length and head of the sender's audit log; (0, "") when it tells none."""
    try:
        said: Any = records["witness"]
        return int(said["length"]), str(said["head"])[:128]
    except (KeyError, TypeError, ValueError):
        return 0, ""


def _json(record: Any) -> Any:
    try:
        text = str(record["json"])
        if len(text) > MOST_JSON:
            raise ExchangeError(f"a message of {len(text)} characters is over {MOST_JSON}")
        return json.loads(text)
    except (KeyError, TypeError, ValueError, RecursionError) as fault:
        raise ExchangeError(f"what came cannot be read: {type(fault).__name__}") from None


def _part(records: RecordDict, name: str) -> Any:
    if name not in records:
        raise ExchangeError(f"what came has no part '{name}'; it has {sorted(records)}")
    return records[name]


def _arrays(weights: Weights) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in weights.items()})


def _weights(arrays: ArrayRecord) -> dict[str, torch.Tensor]:
    # Each array is dropped once it is a tensor: else a model would lie in memory twice.
    return {name: _tensor(name, arrays.pop(name)) for name in list(arrays)}


def _tensor(name: str, array: Array) -> torch.Tensor:
    try:
        return torch.from_numpy(array.numpy())
    except Exception as fault:  # foreign bytes make numpy fail in any way; see load
        raise ExchangeError(f"'{name}' is no array: {type(fault).__name__}") from None
