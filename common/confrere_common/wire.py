"""Tasks and answers <-> Flower records: tensors as one packed array, plain values, never a pickle.

Reading consumes the records: arrays leave them as they become tensors. Tensors that came into a
file stay there, and are read one by one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from confrere_common.arrays import NUMPY, PACKED, FiledArray, RawArray, packed, record
from confrere_common.describe import MOST_TEXT
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Part, Refusal, Task, Update
from confrere_common.marks import MOST_MARKS_BYTES
from confrere_common.npy import read_npy
from confrere_common.pack import Filed, unpacked
from confrere_common.proposal import Proposal, Standing, read_proposal, read_standing
from confrere_common.secagg.messages import (
    Confirmation,
    Delivery,
    Invitation,
    Question,
    Request,
    Revealed,
    Roll,
    Shares,
    Signed,
    Survivors,
    decode,
    encode,
)
from confrere_common.secagg.messages import Reply as MaskedReply
from confrere_common.weights import Weights

Reply: TypeAlias = RecordDict

PACK = "pack"
"""Name of the one array that holds all tensors."""

VECTOR = "confrere.uint32"
"""What we call the bare bytes of a masked update."""

REQUESTS: Mapping[str, type] = {
    kind.__name__: kind for kind in (Invitation, Roll, Delivery, Survivors, Question)
}
REPLIES: Mapping[str, type] = {
    kind.__name__: kind for kind in (Signed, Shares, Confirmation, Revealed)
}

HEAD = re.compile("[0-9a-f]{64}")
"""Of an audit log, as it is told to the other side."""

MOST_REASON = 1000
"""Characters of the longest reason that is read; the rest of it is dropped."""

MOST_JSON = 2_000_000
"""Characters of the longest proposal that is read."""


def task_records(task: Task) -> RecordDict:
    """Return *task* as Flower records."""
    said: dict[str, str | int] = {"run": task.run, "round": task.round, "seed": task.seed}
    if task.evaluate:
        said["evaluate"] = task.part
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
            evaluate="evaluate" in said,
            part=_scored(said.get("evaluate", "test")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise ExchangeError(f"what came is no task of this version: {fault}") from None


def _scored(part: Any) -> Part:
    """Return which patients a model is to be scored on; ValueError for any others."""
    match part:
        case "test":
            return "test"
        case "val":
            return "val"
    raise ValueError("patients of an unknown part")


def answer_records(answer: Answer) -> RecordDict:
    """Return an update or a refusal as Flower records."""
    said: dict[str, str | int] = {"site": answer.site, "round": answer.round}
    if isinstance(answer, Refusal):
        return RecordDict({"answer": ConfigRecord({**said, "reason": answer.reason})})
    if answer.description:
        said["description"] = answer.description
    beside = {"marks": answer.marks} if answer.marks else {}
    return RecordDict(
        {
            "answer": ConfigRecord({**said, **beside, "images": answer.images}),
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
            return Refusal(site=site, round=number, reason=_sentence(said["reason"]))
        return Update(
            site=site,
            round=number,
            delta=_weights(_part(records, "delta")),
            images=_images(said["images"]),
            metrics={name: float(value) for name, value in _part(records, "metrics").items()},
            description=_description(said),
            marks=_marks(said),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise ExchangeError(f"what came is no answer of this version: {fault}") from None


def request_records(request: Request, task: RecordDict | None = None) -> RecordDict:
    """Return the coordinator's part of a masked round as Flower records.

    A *task*, as its own records, goes along; many sites' requests share its arrays.
    """
    kind = type(request).__name__
    records = RecordDict({"masked": ConfigRecord({"kind": kind, "body": encode(request)})})
    for name, part in (task or {}).items():
        records[name] = part
    return records


def is_masked(records: RecordDict) -> bool:
    """Say whether the records are part of a masked round."""
    return "masked" in records


def read_request(records: RecordDict) -> tuple[Request, Task | None]:
    """Return request and task of a masked round; ExchangeError when there is none."""
    request = _message(records, REQUESTS)
    return request, read_task(records) if "task" in records else None


def read_delivered(records: RecordDict) -> tuple[Delivery | None, Task]:
    """Return a task, and what came with it for masks; ExchangeError when there is no task."""
    if not is_masked(records):
        return None, read_task(records)
    request, task = read_request(records)
    if not isinstance(request, Delivery) or task is None:
        raise ExchangeError("a task came with a message of a masked round that has none")
    return request, task


def reply_records(reply: MaskedReply) -> RecordDict:
    """Return a site's part of a masked round as Flower records; a vector as its bytes."""
    if not isinstance(reply, np.ndarray):
        kind = type(reply).__name__
        return RecordDict({"masked": ConfigRecord({"kind": kind, "body": encode(reply)})})
    raw = np.ascontiguousarray(reply, "<u4").data.cast("B")
    vector = record({"vector": RawArray([raw], dtype="uint32", shape=reply.shape, stype=VECTOR)})
    return RecordDict({"masked": ConfigRecord({"kind": "vector"}), "vector": vector})


def read_reply(records: RecordDict) -> MaskedReply | Refusal:
    """Return a site's part of a masked round; ExchangeError when it is none.

    A vector is a view of the bytes that came, and may only be read.
    """
    if "answer" in records:
        refusal = read_answer(records)
        if isinstance(refusal, Refusal):
            return refusal
        raise ExchangeError("a plain update came in a masked round")
    if _part(records, "masked").get("kind") != "vector":
        found: MaskedReply = _message(records, REPLIES)
        return found
    array = _part(records, "vector").get("vector")
    if not isinstance(array, Array) or array.stype != VECTOR or len(array.data) % 4:
        raise ExchangeError("what came is no masked update")
    return np.frombuffer(array.data, "<u4")


def _message(records: RecordDict, kinds: Mapping[str, type]) -> Any:
    said = _part(records, "masked")
    return read_message(said.get("kind"), said.get("body"), kinds)


def read_message(kind: object, body: object, kinds: Mapping[str, type]) -> Any:
    """Return the message of a masked round with that name and body; ExchangeError if none."""
    if not isinstance(kind, str) or kind not in kinds or not isinstance(body, bytes):
        raise ExchangeError("what came is no message of a masked round of this version")
    return decode(kinds[kind], body)


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
    said: Any = records.get("witness", {})
    length, head = said.get("length"), said.get("head")
    if type(length) is not int or length < 1 or not isinstance(head, str):
        return 0, ""
    return (length, head) if HEAD.fullmatch(head) else (0, "")


def _json(record: Any) -> Any:
    try:
        text = str(record["json"])
        if len(text) > MOST_JSON:
            raise ExchangeError(f"a message of {len(text)} characters is over {MOST_JSON}")
        return json.loads(text)
    except (KeyError, TypeError, ValueError, RecursionError) as fault:
        raise ExchangeError(f"what came cannot be read: {type(fault).__name__}") from None


def _sentence(said: Any) -> str:
    """Return a foreign reason as one printable line: it goes into logs and onto terminals."""
    line = " ".join(str(said)[: 2 * MOST_REASON].split())[:MOST_REASON]
    return "".join(mark if mark.isprintable() else "?" for mark in line)


def _part(records: RecordDict, name: str) -> Any:
    if name not in records:
        raise ExchangeError(f"what came has no part '{name}'; it has {sorted(records)}")
    return records[name]


def _arrays(weights: Weights) -> ArrayRecord:
    return record({PACK: packed(weights)})


def _weights(arrays: ArrayRecord) -> Weights:
    if list(arrays) == [PACK]:
        return _unpacked(arrays.pop(PACK))
    # An array for each tensor, as a plain Flower client sends them. Each is dropped once it is a
    # tensor: else a model would lie in memory twice.
    return {name: _tensor(name, arrays.pop(name)) for name in list(arrays)}


def _unpacked(array: Any) -> Weights:
    if not isinstance(array, Array) or array.stype != PACKED:
        raise ExchangeError(f"'{PACK}' is no array: it is not serialised as {PACKED}")
    if isinstance(array, FiledArray):
        filed = Filed(array.file)
        odd = [name for name, place in filed.places.items() if place.dtype != torch.float32]
        found: Weights = filed
    else:
        # Flower's own arrays hold bytes, which may not be written to.
        data = array.data if isinstance(array.data, bytearray) else bytearray(array.data)
        found = unpacked(data)[0]
        odd = [name for name, tensor in found.items() if tensor.dtype != torch.float32]
    if odd:
        raise ExchangeError(f"'{odd[0]}' is no array of float32")
    return found


def _tensor(name: str, array: Any) -> torch.Tensor:
    if not isinstance(array, Array) or array.stype != NUMPY:
        raise ExchangeError(f"'{name}' is no array: it is not serialised as {NUMPY}")
    # Not Flower's reader, which believes the header and asks for as much memory as that claims.
    return read_npy(name, array.data)


def _description(said: Any) -> str:
    text = said.get("description", "")
    if not isinstance(text, str) or len(text) > MOST_TEXT:
        raise ExchangeError("what came with an answer is no description of this version")
    return text


def _marks(said: Any) -> bytes:
    content = said.get("marks", b"")
    if not isinstance(content, bytes) or len(content) > MOST_MARKS_BYTES:
        raise ExchangeError("what came with an answer are no marks of this version")
    return content


def _images(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ExchangeError(f"what came is no answer of this version: {value!r:.40} images")
    return value
