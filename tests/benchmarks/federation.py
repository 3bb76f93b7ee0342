"""A round of the real federation: beside plain Flower, beside bare TLS; and with 50 daemons.

    python tests/benchmarks/federation.py [--sizes "44 MB" "344 MB"] [--rounds 3] [--daemons 50]
    python tests/benchmarks/federation.py --clients 8 --no-flower --daemons 0 --dry
    python tests/benchmarks/federation.py --quick

Prints two tables and writes ``results/federation.json`` (``--quick`` and ``--dry`` write nothing).

Ours is real but for the training: server, edge, mutual TLS, proposals, policies, node keys, audit
logs, spool, outbox, object files, admission, the mean, checkpoints and release, each daemon and
worker a process of its own; the worker puts random numbers of the right shapes into the outbox. In
the table of many daemons several share a process, and do the worker's part in their own threads.

Plain Flower: flower-superlink, flower-supernodes and FedAvg as they come, TLS without client
certificates or node keys, state in memory; the ClientApp answers equally many random numbers.

A round is the whole period from one end to the next, the first counts from when it was asked. CPU
and wire are those of a round, over all processes; the wire is what the loopback carried (it is
this benchmark's alone in a network namespace of its own, where ``unshare -rn`` works). Memory: the
peak of a process; "models" is its growth over what it held after a first, tiny run, in models.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = ("common", "server", "client", "deploy")
CLIENTS = int(os.environ.get("CONFRERE_BENCHMARK_CLIENTS", "3"))
MOST_MODELS = 3.0
FROZEN = "CONFRERE_BENCHMARK_FROZEN"


def freeze_and_run() -> int:
    """Run this script anew on a copy of the sources: a site works with the server's code only."""
    with tempfile.TemporaryDirectory(prefix="frozen-") as folder:
        for part in PARTS:
            ignored = shutil.ignore_patterns("__pycache__", "*.md")
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=ignored)
        path = os.pathsep.join([*(f"{folder}/{part}" for part in PARTS), str(HERE)])
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", FROZEN: "1"}
        quiet = {**os.environ, **one, "PYTHONPATH": path}
        command = [sys.executable, __file__, *sys.argv[1:]]
        alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if own_network():
            command = [*alone, *command]
        else:
            print("no network namespace: the bytes on the wire include other processes'")
        return subprocess.run(command, env=quiet, check=False).returncode


def own_network() -> bool:
    trial = ["unshare", "-rn", "ip", "link", "set", "lo", "up"]
    try:
        return subprocess.run(trial, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


# --------------------------------------------------------------------------- one row


def measured(
    watch: Any, ends: Sequence[float], idle: Mapping[str, float], size: int
) -> dict[str, Any]:
    rounds = len(ends) - 1
    spent, wire = watch.between(ends[0], ends[-1])
    seconds = [later - earlier for earlier, later in pairwise(ends)]
    peaks = watch.peaks()
    return {
        "seconds": [round(one, 2) for one in seconds],
        "median_s": round(median(seconds), 2),
        "cpu_s": {role: round(s / rounds, 2) for role, s in sorted(spent.items())},
        "cpu_total_s": round(sum(spent.values()) / rounds, 2),
        "wire_mb": round(wire / rounds / 1e6, 1),
        "peak_mib": {role: round(peak) for role, peak in sorted(peaks.items())},
        "models": {
            role: round((peaks[role] - before) * 2**20 / size, 2) for role, before in idle.items()
        },
        "load": round(os.getloadavg()[0], 1),
    }


def our_row(name: str, rounds: int, root: Path) -> dict[str, Any]:
    from federation_ours import SIZES, TINY, ours, run_of
    from process_watch import Watch, forget_peak

    names = [f"site-{number}" for number in range(1, CLIENTS + 1)]
    size = 4 * entries(shapes_of(name))
    with ours(root, names) as federation:
        federation.run(run_of("first", TINY, 1, CLIENTS), 300)
        pids = federation.pids()
        before = {who: forget_peak(pid) for who, pid in pids.items()}
        idle = {"server": before["server"], "daemon": min(before[name] for name in names)}
        with Watch(role_of=federation.role_of) as watch:
            plain = run_of(name.replace(" ", "-"), SIZES[name], rounds, CLIENTS)
            made = federation.run(plain, 900)
            watch.look()
        ends = federation.boundaries(made)
        faults = federation.faults(made)
    return {**measured(watch, ends, idle, size), "idle_mib": whole(idle), "faults": faults}


def flower_row(name: str, rounds: int, root: Path) -> dict[str, Any]:
    from federation_flower import plain_flower, role_of
    from process_watch import Watch, forget_peak

    shapes = shapes_of(name)
    with plain_flower(root, CLIENTS) as federation, Watch(role_of=role_of) as watch:
        federation.run({"w": (10,)}, 1, 300)
        watch.look()
        idle: dict[str, float] = {}
        for pid, role in watch.roles.items():
            if role in ("superlink", "supernode"):
                idle[role] = min(forget_peak(pid), idle.get(role, float("inf")))
        watch.peak_mib.clear()
        ends = federation.run(shapes, rounds, 900)
        watch.look()
    return {**measured(watch, ends, idle, 4 * entries(shapes)), "idle_mib": whole(idle)}


def limit_row(name: str, root: Path) -> dict[str, Any]:
    from federation_limit import copy_seconds, tls_seconds

    size = 4 * entries(shapes_of(name))
    tls = [tls_seconds(size, CLIENTS, root) for _ in range(3)]
    return {"tls_s": round(min(tls), 2), "copy_s": round(2 * CLIENTS * copy_seconds(size), 3)}


def many_row(daemons: int, rounds: int, root: Path) -> dict[str, Any]:
    from federation_ours import TINY, ours, run_of
    from process_watch import Watch, forget_peak

    names = [f"site-{number:02}" for number in range(1, daemons + 1)]
    with ours(root, names, together=10) as federation:
        idle = {"server": forget_peak(federation.pids()["server"])}
        with Watch(role_of=federation.role_of) as watch:
            made = federation.run(run_of("many", TINY, rounds, daemons), 900)
            watch.look()
        ends, faults = federation.boundaries(made), federation.faults(made)
    found = measured(watch, ends, idle, 1)
    del found["models"]
    return {"daemons": daemons, **found, "idle_mib": whole(idle), "faults": faults}


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    from federation_ours import SIZES, run_of

    from confrere_common.loading import parse_run
    from confrere_common.model import build_model, shared_weights
    from confrere_deploy.families import ALL_FAMILIES

    run = parse_run({**run_of("shapes", SIZES[name], 1, CLIENTS)}, ALL_FAMILIES)
    return {key: tuple(t.shape) for key, t in shared_weights(build_model(run, 0)).items()}


def entries(shapes: Mapping[str, Sequence[int]]) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for axis in shape:
            size *= axis
        total += size
    return total


def whole(values: Mapping[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in values.items()}


# --------------------------------------------------------------------------- report


def show(name: str, who: str, row: Mapping[str, Any]) -> None:
    rounds = " ".join(f"{one:.1f}" for one in row["seconds"])
    peaks = ", ".join(f"{role} {mib}" for role, mib in row["peak_mib"].items())
    grown = ", ".join(f"{role} {models}" for role, models in row["models"].items())
    print(
        f"{name:>7} {who:7} {row['median_s']:8.2f}   ({rounds})   CPU {row['cpu_total_s']:7.2f}   "
        f"wire {row['wire_mb']:8.1f} MB   load {row['load']}\n"
        f"{'':16} peak MiB: {peaks}\n{'':16} growth in models: {grown}",
        flush=True,
    )


def verdicts(sizes: Mapping[str, Any], many: Mapping[str, Any] | None) -> dict[str, bool]:
    judged: dict[str, bool] = {}
    for name, row in sizes.items():
        models = row["ours"]["models"]
        if row.get("flower"):
            faster = row["ours"]["median_s"] <= row["flower"]["median_s"]
            judged[f"{name}: no slower than plain Flower"] = faster
        judged[f"{name}: server at most 3 models"] = models["server"] <= MOST_MODELS
        judged[f"{name}: daemon at most 3 models"] = models["daemon"] <= MOST_MODELS
        judged[f"{name}: no fault"] = not row["ours"]["faults"]
    if many is not None:
        done = not many["faults"]
        judged[f"{many['daemons']} daemons: {len(many['seconds'])} rounds, no error"] = done
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 MB, and 8 daemons for 3 rounds")
    parser.add_argument("--sizes", nargs="*", default=["44 MB", "344 MB"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--daemons", type=int, default=50, help="0: leave that table out")
    parser.add_argument("--daemon-rounds", type=int, default=20)
    parser.add_argument("--no-flower", action="store_true")
    parser.add_argument("--clients", type=int, default=3, help="sites of the table of sizes")
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--keep", type=Path, help="folder for logs and workspaces")
    asked = parser.parse_args()
    os.environ["CONFRERE_BENCHMARK_CLIENTS"] = str(asked.clients)
    if FROZEN not in os.environ:
        sys.exit(freeze_and_run())
    if asked.quick:
        asked.sizes, asked.daemons, asked.daemon_rounds = ["1 MB"], 8, 3
    from timing import facts, said, write

    with tempfile.TemporaryDirectory(prefix="federation-") as made:
        sizes, many = measure(asked, asked.keep or Path(made))
    judged = verdicts(sizes, many)
    for aim, kept in judged.items():
        print(f"{said(kept):6} {aim}")
    if not (asked.quick or asked.dry):
        write("federation", {**facts(), "aims": judged, "sizes": sizes, "many": many})


def measure(asked: argparse.Namespace, root: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    sizes: dict[str, Any] = {}
    for number, name in enumerate(asked.sizes):
        folders = [root / f"{number}-{kind}" for kind in ("limit", "ours", "flower")]
        for folder in folders:
            folder.mkdir(parents=True)
        limit = limit_row(name, folders[0])
        row = {"bytes": 4 * entries(shapes_of(name)), "limit": limit}
        row["ours"] = our_row(name, asked.rounds, folders[1])
        show(name, "ours", row["ours"])
        if not asked.no_flower:
            row["flower"] = flower_row(name, asked.rounds, folders[2])
            show(name, "Flower", row["flower"])
        tls, copies = limit["tls_s"], limit["copy_s"]
        print(f"{name:>7} bare TLS {tls:.2f} s, copies in memory {copies:.3f} s")
        sizes[name] = row
    if not asked.daemons:
        return sizes, None
    (root / "many").mkdir(parents=True)
    many = many_row(asked.daemons, asked.daemon_rounds, root / "many")
    print(
        f"{asked.daemons} daemons: {many['median_s']} s a round {many['seconds']}, "
        f"CPU {many['cpu_total_s']} s, peak MiB {many['peak_mib']}, faults {many['faults']}"
    )
    return sizes, many


if __name__ == "__main__":
    main()
