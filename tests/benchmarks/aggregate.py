"""What joining updates costs: our mean, a bare axpy over the same bytes, and Flower's own FedAvg.

    python tests/benchmarks/aggregate.py [--quick]

Prints two tables and writes ``results/aggregate.json`` (``--quick`` writes nothing).

Time: processor time of one thread, since other work may share the machine; the median of rounds in
which the candidates take turns. Replies come in turn from a few distinct buffers that together
exceed the processor's caches. ``axpy`` is K plain in-place ``add_(alpha=)`` into accumulators that
already exist; ``axpy+new`` has to make them: the system has to hand it every page.

``mean`` makes none: it takes over the memory of its first update, so it reads K - 1 updates in full
where ``axpy`` reads K. That first update is a buffer of its own, made before the clock starts, as
every reply is: none of the candidates is charged for what a reply's arrival costs.

Memory: each figure is the peak growth of a fresh process in which replies are made one at a time,
in models (1 = the bytes of one update). Flower's function takes all replies at once.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_common.weights import Weights
from confrere_server.rule import RULES

RESULTS = Path(__file__).parent / "results" / "aggregate.json"
COUNTS = (3, 10, 50, 100)
MEMORY_LIMIT = 12e9
TARGET_TIME, TARGET_MODELS = 1.5, 3.0

Shapes = dict[str, tuple[int, ...]]
Row = dict[str, Any]


def resnet18() -> Shapes:
    shapes: Shapes = {"stem.weight": (64, 3, 7, 7), "stem.norm.weight": (64,)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            here = f"{stage}.{block}"
            shapes[f"{here}.conv1"] = (width, before, 3, 3)
            shapes[f"{here}.conv2"] = (width, width, 3, 3)
            shapes |= {f"{here}.norm{n}.{part}": (width,) for n in (1, 2) for part in "wb"}
            if before != width:
                shapes[f"{here}.shortcut"] = (width, before, 1, 1)
            before = width
    return shapes


def vit_base() -> Shapes:
    shapes: Shapes = {"patch.weight": (768, 3, 16, 16), "patch.bias": (768,), "norm": (768,)}
    layers = {"qkv": (2304, 768), "proj": (768, 768), "fc1": (3072, 768), "fc2": (768, 3072)}
    for block in range(12):
        for layer, shape in layers.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
        shapes |= {f"{block}.norm{n}.{part}": (768,) for n in (1, 2) for part in "wb"}
    return shapes


MODELS: dict[str, tuple[Callable[[], Shapes], int]] = {
    "resnet18": (resnet18, 4),
    "vit_base": (vit_base, 3),
}
"""Name -> (shapes, distinct buffers)."""


def model_bytes(model: str) -> int:
    shapes = MODELS[model][0]()
    return 4 * sum(torch.Size(shape).numel() for shape in shapes.values())


def reply(shapes: Shapes, number: int) -> Update:
    """Make a reply whose every page is touched."""
    delta = {name: torch.full(shape, 0.01 * number + 0.001) for name, shape in shapes.items()}
    return Update(site=str(number), round=1, delta=delta, images=100 + 37 * number)


def join(rule: str, updates: Iterator[Update]) -> Weights:
    return RULES.member(rule)(updates, RULES.configure(Named(name=rule, knobs={})))


# ------------------------------------------------------------------------------ time


def axpy(joined: Weights, updates: Iterator[Update]) -> Weights:
    for update in updates:
        for name, delta in update.delta.items():
            joined[name].add_(delta, alpha=float(update.images))
    return joined


def fresh_zeros(shapes: Shapes) -> Weights:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def flower_records(updates: list[Update]) -> list[object]:
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    return [
        RecordDict(
            {"a": ArrayRecord(dict(one.delta)), "m": MetricRecord({"num-examples": one.images})}
        )
        for one in updates
    ]


def flower_join(records: list[object]) -> object:
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    return aggregate_arrayrecords(records, "num-examples")


def in_turns(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each candidate; each repeat begins with another of them."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.thread_time()
            candidates[name]()
            seconds[name].append(time.thread_time() - start)
    return {name: median(taken) for name, taken in seconds.items()}


def times(model: str, counts: tuple[int, ...]) -> Iterator[Row]:
    make, distinct = MODELS[model]
    shapes = make()
    pool = [reply(shapes, number) for number in range(distinct)]
    records = flower_records(pool)
    kept = fresh_zeros(shapes)
    first = reply(shapes, distinct)  # no other update is this one: the mean writes into it

    def stream(count: int) -> Iterator[Update]:
        yield first
        yield from (pool[number % distinct] for number in range(count - 1))

    for count in counts:
        candidates: dict[str, Callable[[], object]] = {
            "mean": lambda count=count: join("mean", stream(count)),
            "axpy": lambda count=count: axpy(kept, stream(count)),
            "axpy_new": lambda count=count: axpy(fresh_zeros(shapes), stream(count)),
        }
        if count * model_bytes(model) < MEMORY_LIMIT:
            candidates["flower"] = lambda count=count: flower_join(
                [records[number % distinct] for number in range(count)]
            )
        seconds = in_turns(candidates, repeats=9 if count <= 10 else 3)
        yield {
            "model": model,
            "updates": count,
            "seconds": {name: round(value, 5) for name, value in seconds.items()},
            "over_axpy": round(seconds["mean"] / seconds["axpy"], 3),
            "over_axpy_new": round(seconds["mean"] / seconds["axpy_new"], 3),
        }


# ---------------------------------------------------------------------------- memory


def status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("the memory of a process can be measured on Linux only")


def measure(what: str, model: str, count: int) -> None:
    """Print how far this process's memory grows at most, and the seconds it took."""
    shapes = MODELS[model][0]()
    updates = (reply(shapes, number) for number in range(count))
    if what == "flower":
        flower_join(flower_records([reply({"w": (10,)}, 1)]))  # Its imports are not its memory.
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark starts anew.
    before, start = status_bytes("VmRSS"), time.perf_counter()
    if what == "flower":
        # Each tensor is serialised into its record and dropped, as replies arrive from the wire.
        flower_join([flower_records([update])[0] for update in updates])
    else:
        join(what, updates)
    grown = status_bytes("VmHWM") - before
    print(json.dumps({"bytes": grown, "seconds": time.perf_counter() - start}))


def memory(what: str, model: str, count: int) -> Row:
    command = [sys.executable, __file__, "--measure", what, model, str(count)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    return {
        "what": what,
        "model": model,
        "updates": count,
        "models": round(found["bytes"] / model_bytes(model), 2),
        "seconds_with_making": round(found["seconds"], 2),
    }


def memories(counts: tuple[int, ...], models: tuple[str, ...]) -> Iterator[Row]:
    for model in models:
        for count in counts:
            yield memory("mean", model, count)
            if count * model_bytes(model) < MEMORY_LIMIT:
                yield memory("flower", model, count)
    for rule in ("trimmed_mean", "median"):
        for count in counts[1:3]:
            yield memory(rule, models[0], count)


# ---------------------------------------------------------------------------- report


def show_time(row: Row) -> None:
    seconds: dict[str, float] = row["seconds"]
    flower = seconds.get("flower")
    text = f"{flower:9.3f} {flower / seconds['mean']:6.1f}x" if flower else "  skipped: over 12 GB"
    print(
        f"{row['model']:9} {row['updates']:4} {seconds['mean']:9.4f} {seconds['axpy']:9.4f} "
        f"{row['over_axpy']:6.2f} {seconds['axpy_new']:9.4f} {row['over_axpy_new']:6.2f} {text}",
        flush=True,
    )


def show_memory(row: Row) -> None:
    print(
        f"{row['what']:13} {row['model']:9} {row['updates']:4} {row['models']:8.2f} "
        f"{row['seconds_with_making']:8.2f}",
        flush=True,
    )


def verdicts(rows: list[Row], memory_rows: list[Row]) -> dict[str, bool]:
    ours = [row for row in memory_rows if row["what"] != "flower"]
    grown: dict[tuple[str, str], list[float]] = {}
    for row in ours:
        if row["updates"] >= 10:
            grown.setdefault((row["what"], row["model"]), []).append(row["models"])
    return {
        "time within 1.5x of axpy+new": all(row["over_axpy_new"] <= TARGET_TIME for row in rows),
        "time within 1.5x of axpy": all(row["over_axpy"] <= TARGET_TIME for row in rows),
        "memory at most 3 models": all(row["models"] <= TARGET_MODELS for row in ours),
        "memory independent of K (5 % from 10 on)": all(
            max(models) <= 1.05 * min(models) for models in grown.values()
        ),
    }


def machine() -> Row:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "buffers": {model: distinct for model, (_, distinct) in MODELS.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small model and few updates only")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.measure:
        what, model, count = asked.measure
        measure(what, model, int(count))
        return
    models = ("resnet18",) if asked.quick else tuple(MODELS)
    counts = COUNTS[:2] if asked.quick else COUNTS
    print("one thread; processor seconds to join K updates that alias a few distinct buffers:")
    for model in models:
        print(f"  {model}: {model_bytes(model) / 4e6:.1f} M parameters, {MODELS[model][1]} buffers")
    print("model        K      mean      axpy  ratio  axpy+new  ratio    Flower (over mean)")
    rows = []
    for model in models:
        for row in times(model, counts):
            rows.append(row)
            show_time(row)
    print("\npeak memory growth of a fresh process; replies made one at a time:")
    print("rule          model        K   models  seconds, making the replies included")
    memory_rows = []
    for row in memories(counts, models):
        memory_rows.append(row)
        show_memory(row)
    judged = verdicts(rows, memory_rows)
    for target, kept in judged.items():
        print(f"{'held  ' if kept else 'MISSED'} {target}")
    if not asked.quick:
        result = {**machine(), "targets": judged, "time": rows, "memory": memory_rows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
