"""One bad site among eight honest ones: what each way of joining updates makes of it.

    python tests/benchmarks/admission.py [--quick]

Prints a table and writes ``results/admission.json`` (``--quick`` writes nothing).

Flower's strategies get what they would get in a run: messages with an array record and a metric
record, through ``aggregate_train``. Ours gets the same arrays as the records of an answer, through
the reader of the wire, admission, the weight cap and the rule. A cell says what the round gave:

    OK         all finite, and within 5 % of the mean of the honest updates in direction (for those
               that choose or cut: of what the same strategy gives for the honest ones alone)
    MOVED c    finite, but turned: c is the cosine to that
    POISONED   not all finite, or of another type or shape
    LOST       an exception: the round is gone for all
    (n used)   ours only: updates that were joined

The second table is a federation of three hospitals of one kind and two of another, all honest: how
much of the minority's direction is kept, 100 % being its share of the mean.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
)
from flwr.supercore.task_identity import TaskIdentity
from timing import Row, facts, write

from confrere_common.errors import ConfrereError
from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_common.limits import Limits
from confrere_common.wire import answer_records, read_answer
from confrere_server.admission import Gate, Repute, capped, judged
from confrere_server.rule import RULES

Arrays = dict[str, np.ndarray]
Site = tuple[Arrays, Any]
"""Arrays and the number of examples that a site says it has."""

SHAPES = {"w": (64, 32), "b": (32,)}
HONEST, EXAMPLES = 8, 100
STRATEGIES: Mapping[str, Callable[[], Any]] = {
    "FedAvg": FedAvg,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.2),
    "Krum": lambda: Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=6),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=1),
}


def honest(seed: int) -> Arrays:
    """Return an update that shares a direction with the others and has much of its own."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    return {
        name: (common.normal(size=shape) + own.normal(size=shape)).astype(np.float32) * 0.01
        for name, shape in SHAPES.items()
    }


def spoilt(change: Callable[[np.ndarray], np.ndarray]) -> Site:
    arrays = honest(99)
    return {**arrays, "b": change(arrays["b"])}, EXAMPLES


def everywhere(factor: float, examples: Any = EXAMPLES) -> Site:
    return {name: factor * array for name, array in honest(99).items()}, examples


ATTACKS: Mapping[str, Callable[[], Site]] = {
    "none": lambda: everywhere(1),
    "NaN": lambda: spoilt(lambda b: np.full_like(b, np.nan)),
    "infinity": lambda: spoilt(lambda b: np.full_like(b, np.inf)),
    "x100": lambda: everywhere(100),
    "1e9 examples, turned": lambda: everywhere(-1, 10**9),
    "-900 examples": lambda: everywhere(1, -900),
    "NaN examples": lambda: everywhere(1, float("nan")),
    "wrong shape": lambda: spoilt(lambda _: np.ones(7, np.float32)),
    "shape (1,)": lambda: spoilt(lambda _: np.full(1, 5, np.float32)),
    "complex": lambda: spoilt(lambda b: b.astype(np.complex64)),
    "whole numbers": lambda: spoilt(lambda b: np.ones(b.shape, np.int64)),
    "text": lambda: spoilt(lambda b: np.full(b.shape, "x")),
    "missing tensor": lambda: ({"w": honest(99)["w"]}, EXAMPLES),
    "tensor too many": lambda: ({**honest(99), "x": np.ones(3, np.float32)}, EXAMPLES),
    "huge header": lambda: ({**honest(99), "b": np.zeros(0)}, EXAMPLES),
}

HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
)


def record_of(arrays: Arrays) -> ArrayRecord:
    """Return the arrays as they travel; an empty float64 array stands for the huge header."""
    found = {}
    for name, array in arrays.items():
        if array.dtype == np.float64 and array.size == 0:
            said = {"dtype": "float32", "shape": (32,), "stype": "numpy.ndarray"}
            found[name] = Array(**said, data=HUGE)
        else:
            found[name] = Array(array)
    return ArrayRecord(found)


def by_flower(make: Callable[[], Any], sites: list[Site]) -> Any:
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # as a run would
    replies = []
    for number, (arrays, examples) in enumerate(sites):
        content = RecordDict(
            {"arrays": record_of(arrays), "metrics": MetricRecord({"num-examples": examples})}
        )
        asked = Message(content=RecordDict(), dst_node_id=number + 1, message_type="train")
        asked.metadata._message_id = str(number)  # as the grid would
        replies.append(Message(content=content, reply_to=asked))
    strategy = make()
    found, _ = strategy.aggregate_train(1, replies)
    return {name: array.numpy() for name, array in found.items()}


def by_ours(rule: str, sites: list[Site]) -> tuple[Arrays, int]:
    template = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    usual = float(np.sqrt(sum((array**2).sum() for array in honest(0).values())))
    limits = Limits(clip_ratio=2.0)
    enrolled = {str(number): EXAMPLES for number in range(len(sites))}
    gate = Gate(
        template=template, limits=limits, repute=Repute(lengths=(usual,)), enrolled=enrolled
    )
    admitted = []
    for number, (arrays, examples) in enumerate(sites):
        plain = Update(site=str(number), round=1, delta=template, images=EXAMPLES)
        records = answer_records(plain)
        records["delta"] = record_of(arrays)
        records["answer"]["images"] = examples
        try:
            answer = read_answer(records)
        except ConfrereError:
            continue
        assert isinstance(answer, Update)
        update = judged(answer, gate).update
        admitted += [update] if update is not None else []
    config = RULES.configure(Named(name=rule, knobs={}))
    joined = RULES.member(rule)(capped(iter(admitted), limits.weight_share), config)
    return {name: tensor.numpy() for name, tensor in joined.items()}, len(admitted)


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in SHAPES])


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two) + 1e-30))


def verdict(found: Arrays, due: Arrays) -> str:
    same = all(
        name in found and found[name].shape == shape and found[name].dtype.kind == "f"
        for name, shape in SHAPES.items()
    )
    if not same or not np.isfinite(flat(found)).all():
        return "POISONED"
    angle, longer = (
        cosine(flat(found), flat(due)),
        np.linalg.norm(flat(found)) / np.linalg.norm(flat(due)),
    )
    return "OK" if angle > 0.95 and longer < 1.5 else f"MOVED {angle:.2f} x{longer:.1f}"


def cell(join: Callable[[list[Site]], Any], attack: Site, clean: list[Site]) -> str:
    try:
        found, due = join([*clean, attack]), join(clean)
    except Exception as fault:  # whatever it is, the round is gone
        return f"LOST ({type(fault).__name__})"
    if isinstance(found, tuple):
        return f"{verdict(found[0], due[0])} ({found[1]} used)"
    return verdict(found, due)


def joins() -> dict[str, Callable[[list[Site]], Any]]:
    found: dict[str, Callable[[list[Site]], Any]] = {
        name: lambda sites, make=make: by_flower(make, sites) for name, make in STRATEGIES.items()
    }
    for rule in ("mean", "trimmed_mean", "median"):
        found[f"ours: {rule}"] = lambda sites, rule=rule: by_ours(rule, sites)
    return found


def minority_kept(join: Callable[[list[Site]], Any]) -> str:
    """Return how much of the minority's direction is left, 100 % being its share of the mean."""
    one, two = np.random.default_rng(1), np.random.default_rng(2)
    ways = [
        {n: one.normal(size=s) * 0.01 for n, s in SHAPES.items()},
        {n: two.normal(size=s) * 0.01 for n, s in SHAPES.items()},
    ]
    sites = []
    for number, way in enumerate((0, 0, 0, 1, 1)):
        noise = np.random.default_rng(10 + number)
        arrays = {
            n: (ways[way][n] + 0.005 * noise.normal(size=s)).astype(np.float32)
            for n, s in SHAPES.items()
        }
        sites.append((arrays, EXAMPLES))
    try:
        found = join(sites)
    except Exception as fault:
        return f"LOST ({type(fault).__name__})"
    arrays = found[0] if isinstance(found, tuple) else found
    direction = flat(ways[1])
    kept = float(flat(arrays) @ direction / (direction @ direction))
    return f"{kept / 0.4:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    quick = parser.parse_args().quick
    clean = [(honest(seed), EXAMPLES) for seed in range(HONEST)]
    rows: list[Row] = []
    for name, attack in ATTACKS.items():
        row = {
            "attack": name,
            **{way: cell(join, attack(), clean) for way, join in joins().items()},
        }
        rows.append(row)
        print(name)
        for way in joins():
            print(f"    {way:20} {row[way]}", flush=True)
    kept = {way: minority_kept(join) for way, join in joins().items()}
    print("what is kept of two hospitals of another kind, among five:")
    for way, share in kept.items():
        print(f"    {way:20} {share}")
    if not quick:
        write("admission", {**facts(), "attacks": rows, "minority_kept": kept})


if __name__ == "__main__":
    main()
