"""Does a federation learn? Two real data sets, three methods, all arms, three seeds, intervals.

    python tests/benchmarks/learning.py --data ../shared/data [--out DIR] [--set a.b=c ...]

Each study is ``confrere simulate`` on a file of ``configs/learning``, the product as it is. Two
studies run at once on one thread each, so 2 cores take at most 40 minutes. ``--out`` keeps the
studies' own reports; a second call with it takes up what the first left.

``derm`` has its three natural sites (HAM10000: Rosendahl, and two machines of Vienna); ``histo``
(LC25000, lung) has four Dirichlet sites. Images at 64 px, a ResNet-18 of width 16 (0.7 M
parameters): small, so that it runs on a laptop; no figure here says what a full-size encoder
reaches. Prints a table and writes ``results/learning.json``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs" / "learning"
RESULTS = HERE / "results" / "learning.json"
FOLDERS = {"histo": "histo_lc25000", "derm": "derm_ham10000_3sites_128"}
METHODS = {
    "simclr": ["train.batch=32", "train.lr=2.0e-3"],
    "byol": ["train.batch=32", "train.lr=1.0e-3"],
    "simmim": ["train.batch=16", "train.lr=2.0e-3"],
}
"""Method -> what its studies change, chosen on validation images only (see the README beside)."""

ARMS = ("raw", "random", "local", "federated", "centralised")
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
    # glibc gives large blocks back to the kernel, which clears them anew at each step: much of the
    # processor time of a Swin transformer on volumes.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def study(place: Path, data: Path, name: str, method: str, changes: list[str]) -> dict[str, Any]:
    """Run one study and return its report; take it up when *place* holds a part of it."""
    out = place / f"{name}-{method}"
    source = data / FOLDERS[name] / "manifest.csv"
    settings = [f"method={method}", *METHODS[method], f"data.source.path={source}", *changes]
    command = [sys.executable, "-m", "confrere_deploy.cli", "simulate"]
    command += [str(CONFIGS / f"{name}.yaml"), "--out", str(out), "--resume"]
    for setting in settings:
        command += ["--set", setting]
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **THREADS}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, {method}:\n{done.stderr}")
    print(f"{name}, {method}: {time.perf_counter() - began:.0f} s", flush=True)
    return json.loads((out / "report.json").read_bytes())


def row(name: str, method: str, report: dict[str, Any]) -> dict[str, Any]:
    """Return what the table and the JSON keep of a report."""
    arms = {arm: report["arms"][arm] for arm in ARMS}
    for figures in arms.values():
        figures.pop("sites", None)
    return {
        "data": name,
        "method": method,
        "arms": arms,
        "differences": report["differences"],
        "sites": report["sites"],
        "test": {key: report["data"][key] for key in ("test_images", "test_patients")},
        "rounds": report["run"]["federation"]["rounds"],
        "train": report["run"]["train"],
        "seeds": report["seeds"],
        "cost": report["cost"],
        "digest": report["digest"],
        "warnings": report["warnings"],
    }


def told(figure: dict[str, float]) -> str:
    """Return a figure as text."""
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """Return whether the aims of the benchmark hold for one row, by linear AUC."""
    auc = {arm: found["arms"][arm]["linear"]["auc"] for arm in ARMS}
    ours = auc["federated"]
    floors = ("raw", "random", "local")
    above = {f"intervals apart from {arm}": ours["low"] > auc[arm]["high"] for arm in floors}
    paired = {
        f"paired difference to {arm} above 0": found["differences"][f"federated-{arm}"]["low"] > 0
        for arm in floors
    }
    ceiling = auc["centralised"]
    near = ours["high"] >= ceiling["low"] and ours["low"] <= ceiling["high"]
    return {**above, **paired, "within an interval of centralised": near}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(
        f"\nlinear AUC, macro, on test patients: mean over seeds [95 % interval]\n{'':16}", end=""
    )
    print("".join(f"{arm:>23}" for arm in ARMS))
    for found in rows:
        print(f"{found['data']:>6} {found['method']:<9}", end="")
        print("".join(f"{told(found['arms'][arm]['linear']['auc']):>23}" for arm in ARMS))
        missed = [text for text, holds in found["aims"].items() if not holds]
        print(f"{'':16} {'all aims hold' if not missed else 'falls short: ' + '; '.join(missed)}")


def machine() -> dict[str, Any]:
    """Return the class of machine."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count()} | {
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def commit() -> str:
    """Return the commit that was measured, empty outside a checkout."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return asked.stdout.strip()


def main() -> None:
    """Run all studies, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, help="where to keep the studies")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sets", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    asked = parser.parse_args()
    place = asked.out or Path(tempfile.mkdtemp(prefix="learning-"))
    began = time.perf_counter()
    wanted = [(name, method) for method in asked.methods for name in asked.sets]
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(study, place, asked.data.resolve(), name, method, asked.changes)
            for name, method in wanted
        ]
        rows = [row(*pair, future.result()) for pair, future in zip(wanted, futures, strict=True)]
    for found in rows:
        found["aims"] = verdict(found)
    rows.sort(key=lambda found: (found["data"], found["method"]))
    show(rows)
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{minutes:.1f} minutes")
    stamp = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "machine": machine()}
    if not asked.dry:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**stamp, "minutes": minutes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
