"""What simulating a federation costs beyond the work: ours inline, Flower with Ray, a plain loop.

    python tests/benchmarks/simulate.py [--quick] [--sites N ...] [--state keep]

Prints tables and writes ``results/simulate.json`` (``--quick`` writes nothing). ``--state keep``
has every site keep its optimizer's moments on disk, as is usual, and measures the overhead alone:
``results/simulate_keep.json``; without it nothing is kept, else a site that does no work would be
measured by its disk. Every trial is a fresh process with one torch thread; the engines take turns
inside every repeat.

Overhead: virtual sites of two 8 px images and one step of a ViT of one block. ``inline`` and
``ray`` are our engines through ``Job``, with all they do in production: checks, checkpoints, what
a site keeps on disk. ``plain`` is a bare torch loop over one model, run after every inline
round in the same process, that does what a site is asked for and nothing else: load the weights,
step, measure the representation, fold; ``steps`` leaves the measures out. A round counts from when
its cohort is drawn until it is saved. Overhead is a round's seconds less ``plain``.

``ray`` gives each site all cores, so one worker stands against our one process; ``ray, N at once``
gives each site one core: N workers share the work, which is then taken off the overhead though it
ran beside it. ``no-op`` is no engine of ours but a bare Flower app whose clients return what came:
no work is taken off, no state is kept.

Work: 4 sites with 20 steps of a ResNet-18 16 wide at 64 px in batches of 32.

Start: ``confrere simulate`` of a toy until its first round: seconds of processor, imports included,
and the peak memory of the whole run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from plain_loop import Plain
from timing import Row, facts, peak_mib, said, timed, write
from toy_run import trial_toy

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_common.config import Run
from confrere_common.loading import parse_run
from confrere_common.model import build_model, input_of, shared_weights
from confrere_deploy.engine import ENGINES, Job
from confrere_deploy.families import ALL_FAMILIES
from confrere_server.rounds import Asked, Closed, Event

COUNTS = (4, 10, 100, 1000)
JUDGED = (10, 100, 1000)
LESS, WORK, START_S, MEMORY_MIB = 10.0, 1.10, 5.0, 600.0

TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "phantom", "image_px": 8, "channels": 1, "dims": 2},
    "encoder": {"name": "vit", "depth": 1, "dim": 16, "heads": 1, "patch": 4},
    "method": {"name": "simclr", "hidden": 16, "out": 8},
    "augment": {"modality": "cxr"},
    "train": {"batch": 2, "steps_per_round": 1, "device": "cpu", "optimizer_state": "reset"},
}
REAL = {
    "data": {"source": "phantom", "image_px": 64, "channels": 3, "dims": 2},
    "encoder": {"name": "resnet", "depth": 18, "width": 16},
    "method": {"name": "simclr"},
    "augment": {"modality": "dermatology"},
    "train": {"batch": 32, "steps_per_round": 20, "device": "cpu"},
}


# ---------------------------------------------------------------------------- the jobs


@dataclass
class Laps:
    """Seconds from when a round's cohort is drawn until it is saved; then *between* is called."""

    between: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    began: float = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Asked):
            self.began = time.perf_counter()
        elif isinstance(event, Closed):
            self.seconds.append(time.perf_counter() - self.began)
            refused = [site.refused for site in event.record.sites if site.refused]
            if refused:
                raise SystemExit(f"{len(refused)} sites were left out, the first: {refused[0]}")
            self.between()


def run_of(plain: Mapping[str, Any], rounds: int) -> Run:
    named = {"name": "bench", **plain, "federation": {"rounds": rounds}}
    return parse_run(named, ALL_FAMILIES)


def job_of(run: Run, sites: int, each: int, folder: Path, laps: Laps) -> Job:
    channels, size = input_of(run)
    path = folder / "pixels.npy"
    shape = (sites * each, channels, *size)
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    mapped = np.load(path, mmap_mode="r")
    return Job(
        run=run,
        seed=0,
        images=Images(pixels=mapped, catalog=catalog_of([]), skipped=(), digest=""),
        sites={f"site-{n}": np.arange(n * each, (n + 1) * each) for n in range(sites)},
        folder=folder / "job",
        observe=laps,
        watch=lambda *_: None,
    )


# --------------------------------------------------------------- trials, each a process


def trial_inline(plain: Mapping[str, Any], sites: int, each: int, rounds: int) -> Row:
    """Run our inline engine; after each of its rounds the plain loop, with and without measures."""
    loops: dict[str, list[float]] = {"plain": [], "steps": []}

    def between() -> None:
        for name in sorted(loops, reverse=len(laps.seconds) % 2 == 0):
            loops[name].append(timed(lambda name=name: bare.round(measured=name == "plain")))

    laps = Laps(between)
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(run_of(plain, rounds), sites, each, Path(folder), laps)
        bare = Plain(job)
        bare.round(measured=True)
        ENGINES.member("inline")(job)
    return {"seconds": laps.seconds, **loops, "peak_mib": peak_mib()}


def trial_ray(cpus: int, sites: int, rounds: int) -> Row:
    laps = Laps(lambda: None)
    began = time.perf_counter()
    first: list[float] = []
    laps.between = lambda: first.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(run_of(TINY, rounds), sites, 2, Path(folder), laps)
        ENGINES.member("ray")(replace(job, resources={"num_cpus": cpus}))
    return {"seconds": laps.seconds, "to_end_of_first_round_s": first[0]}


def trial_noop(sites: int, rounds: int) -> Row:
    """Run Flower's own FedAvg over clients that return the arrays they were given."""
    import logging
    import warnings

    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    laps: list[float] = []
    began = [0.0]

    class Timed(FedAvg):
        def configure_train(self, *given: Any, **named: Any) -> Any:
            began[0] = time.perf_counter()
            return super().configure_train(*given, **named)

        def aggregate_train(self, *given: Any, **named: Any) -> Any:
            found = super().aggregate_train(*given, **named)
            laps.append(time.perf_counter() - began[0])
            return found

    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Any, context: Any) -> Any:  # noqa: ARG001
        metrics = MetricRecord({"num-examples": 1})
        content = {"arrays": message.content["arrays"], "metrics": metrics}
        return Message(content=RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Any, context: Any) -> None:  # noqa: ARG001
        weights = shared_weights(build_model(run_of(TINY, 1), seed=0))
        strategy = Timed(fraction_evaluate=0.0, min_available_nodes=sites, min_train_nodes=sites)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(weights), num_rounds=rounds)

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=sites,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"include_dashboard": False},
        },
    )
    return {"seconds": laps}


TRIALS: dict[str, Callable[..., Row]] = {
    "inline": lambda sites, rounds: trial_inline(TINY, sites, 2, rounds),
    "ray": lambda sites, rounds: trial_ray(os.cpu_count() or 1, sites, rounds),
    "ray_many": lambda sites, rounds: trial_ray(1, sites, rounds),
    "noop": trial_noop,
    "work": lambda rounds: trial_inline(REAL, 4, 256, rounds),
    "toy": trial_toy,
}


def trial(name: str, *numbers: int) -> Row:
    """Return what a fresh process measures."""
    state = TINY["train"]["optimizer_state"]
    command = [sys.executable, __file__, "--state", state, "--trial", name, *map(str, numbers)]
    # Ray bids its workers give way to all else (nice 15): on a machine at work it would look slow.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=1200
    )
    if ran.returncode:
        raise SystemExit(f"{name} {numbers} failed:\n{ran.stderr[-2000:]}")
    found: Row = json.loads(ran.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------------- the tables


def overheads(counts: Sequence[int], quick: bool) -> Iterator[Row]:
    for sites in counts:
        repeats = 1 if quick or sites >= 100 else 2
        ours = {1000: 3, 100: 8}.get(sites, 20)
        theirs = 2 if sites >= 1000 else 6
        plans = {"inline": ours, "ray": theirs, "ray_many": theirs, "noop": theirs}
        found: dict[str, list[Row]] = {name: [] for name in plans}
        for repeat in range(repeats):
            names = list(plans)
            for name in names[repeat % 4 :] + names[: repeat % 4]:
                found[name].append(trial(name, sites, plans[name]))
        yield compared(sites, found)


def compared(sites: int, found: Mapping[str, Sequence[Row]]) -> Row:
    # The first round builds what later ones find: it is not among a round's seconds.
    after = {name: [s for row in rows for s in row["seconds"][1:]] for name, rows in found.items()}
    loops = {
        name: [s for row in found["inline"] for s in row[name][1:]] for name in ("plain", "steps")
    }
    seconds = {name: median(values) for name, values in (after | loops).items()}
    pairs = list(zip(after["inline"], loops["plain"], strict=True))
    overhead = {"inline": median(a - b for a, b in pairs), "noop": seconds["noop"]}
    overhead |= {name: seconds[name] - seconds["plain"] for name in ("ray", "ray_many")}
    strict = median(a - b for a, b in zip(after["inline"], loops["steps"], strict=True))
    return {
        "sites": sites,
        "seconds_per_round": {name: round(value, 4) for name, value in seconds.items()},
        "overhead_s": {name: round(value, 4) for name, value in overhead.items()},
        "inline_ms_per_site": round(1e3 * overhead["inline"] / sites, 3),
        "times_less": {
            name: round(overhead[name] / overhead["inline"], 1)
            for name in ("ray", "ray_many", "noop")
        },
        "times_less_measures_as_overhead": round((seconds["ray"] - seconds["steps"]) / strict, 1),
        "ray_to_end_of_first_round_s": median(
            row["to_end_of_first_round_s"] for row in found["ray"]
        ),
    }


def show(row: Row) -> None:
    seconds, less = row["seconds_per_round"], row["times_less"]
    print(
        f"{row['sites']:5} {seconds['steps']:8.3f} {seconds['plain']:8.3f} "
        f"{seconds['inline']:8.3f} {seconds['ray']:8.3f} {seconds['ray_many']:8.3f} "
        f"{seconds['noop']:8.3f} {row['inline_ms_per_site']:9.2f} "
        f"{less['ray']:8.1f}x {less['ray_many']:8.1f}x {less['noop']:8.1f}x",
        flush=True,
    )


def real_work(rounds: int) -> Row:
    found = trial("work", rounds)
    taken = {name: found[name][1:] for name in ("seconds", "plain", "steps")}

    def over(loop: str) -> float:
        return median(a / b for a, b in zip(taken["seconds"], taken[loop], strict=True))

    return {
        "seconds_per_round": {name: round(median(values), 3) for name, values in taken.items()},
        "over_plain": round(over("plain"), 3),
        "over_steps_alone": round(over("steps"), 3),
    }


def verdicts(rows: Sequence[Row]) -> dict[str, bool]:
    judged = [row for row in rows if row["sites"] in JUDGED]
    return {
        f"inline has {LESS:.0f}x less overhead a round than Flower + Ray": all(
            row["times_less"]["ray"] >= LESS for row in judged
        )
    }


def beside(*, quick: bool) -> Row:
    """Measure what hangs on no number of sites: a toy's start and memory, a round of real work."""
    toys = [trial("toy") for _ in range(1 if quick else 3)]
    toy = {name: round(median(one[name] for one in toys), 2) for name in toys[0]}
    print(f"toy: {toy}", flush=True)
    work = real_work(3 if quick else 6)
    print(f"real work: {work}", flush=True)
    targets = {
        f"a round of real work within {WORK:.2f}x of the plain loop": work["over_plain"] <= WORK,
        f"first round within {START_S:.0f} s of processor": toy["cpu_s_to_first_round"] <= START_S,
        f"a toy within {MEMORY_MIB:.0f} MiB": toy["peak_mib"] <= MEMORY_MIB,
    }
    return {"targets": targets, "toy": toy, "work": work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="few sites, one repeat, no file")
    parser.add_argument("--sites", type=int, nargs="+", help="only these numbers of sites")
    parser.add_argument("--state", choices=("reset", "keep"), default="reset")
    parser.add_argument("--trial", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    TINY["train"]["optimizer_state"] = given.state
    if given.trial:
        name, *numbers = given.trial
        print("\n" + json.dumps(TRIALS[name](*map(int, numbers))))
        return
    print(
        "\nseconds a round                                         inline    overhead over inline's"
    )
    print(
        "sites    steps    plain   inline      ray ray many    no-op   ms/site"
        "       ray  ray many     no-op"
    )
    rows: list[Row] = []
    found: Row = {}
    for row in overheads(given.sites or (COUNTS[1:3] if given.quick else COUNTS), given.quick):
        rows.append(row)
        show(row)
        found = {"optimizer_state": given.state, "targets": verdicts(rows), "rows": rows}
        keep(found, given)
    if given.state == "reset":
        other = beside(quick=given.quick)
        found = {**found, **other, "targets": {**found["targets"], **other["targets"]}}
        keep(found, given)
    for target, kept in found["targets"].items():
        print(f"{said(kept):6} {target}")


def keep(found: Row, given: argparse.Namespace) -> None:
    """Write what is known by now: a run that is cut short keeps what it measured."""
    if not given.quick:
        name = "simulate" if given.state == "reset" else "simulate_keep"
        write(name, {**facts(), "sites": [row["sites"] for row in found["rows"]], **found})


if __name__ == "__main__":
    main()
