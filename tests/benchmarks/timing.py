"""What the benchmark scripts share: taking turns, medians of ratios, and what the machine was."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]
Work = Callable[[], float]
"""Does its work once and returns the seconds that count."""


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Work], repeats: int) -> list[dict[str, float]]:
    """Return the seconds of every work in each repeat; each begins with another of them."""
    names = list(works)
    for name in names:
        works[name]()
    runs = []
    for repeat in range(repeats):
        turn = repeat % len(names)
        runs.append({name: works[name]() for name in names[turn:] + names[:turn]})
    return runs


def ratio(runs: Sequence[Mapping[str, float]], over: str, under: str) -> float:
    """Return the median over repeats of one work's time over another's in the same repeat."""
    return median(run[over] / run[under] for run in runs)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB (Linux).

    Not ``ru_maxrss``: a child inherits that of the process that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the memory of a process can be measured on Linux only")


def facts() -> Row:
    """Return date, commit and class of machine."""
    import torch  # here: who only measures memory does not want its quarter of a gibibyte

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=RESULTS.parent,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def write(name: str, result: Row) -> None:
    """Write ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path.relative_to(RESULTS.parent)}")


def said(kept: bool) -> str:
    """Return the word for a target that held, or did not."""
    return "held" if kept else "MISSED"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
