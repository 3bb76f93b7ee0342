"""What preparing a folder costs: against plain loops, with more files, and what a crop saves.

    python tests/benchmarks/ingest.py [--files 400] [--repeats 5] [--small 1000 20000] [--quick]

Prints a table and writes ``results/ingest.json`` (``--quick`` writes nothing).

Each plain loop does the same job with pydicom, Pillow or nibabel alone: decode, bring to the unit,
scale, resample, write the same bytes to one file. It is given its files, DICOM sorted into series,
and knows nothing of what it wrote. The *whole* loop does what every preparation must, and no more:
DICOM is sorted into series by its headers, each image is hashed and measured (mean, spread), and a
catalog says where it lies. Ours also looks into each file in a process of its own, refuses what is
broken, takes names away, crops volumes to the patient, looks for label maps and for images that
look alike, keeps a book that a killed run goes on from, and writes a report.

Seconds are of the processors, of all processes; a cost *per file* is that of N files less that of
N / 4, over the difference, so that the start of workers (told apart) is in neither. Ours and plain
take turns. ``ratio`` is the median of plain over ours: 1 is as fast as plain; ``whole_ratio``
likewise. Seconds of one and two jobs are what this machine gave beside other people's work; those
of the wall mean little where the load is over the number of cores: ``ingest_linear.py`` asks that.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ingest_kinds import BOX_SLICES, KINDS, ball, make_pictures, plain, whole
from process_watch import Watch
from timing import Row, facts, said, write

from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan

RATIO, CROP, GROWTH = 0.9, 50.0, 1.25
CROP_VOXELS, VOLUME_VOXELS = 96, 160
ALONE = """
import sys
from pathlib import Path

from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan

folder = Path(sys.argv[1])
prepare(Order(sources=(folder / "in",), dataset=folder / "set", plan=Plan(image_px=32)))
status = Path("/proc/self/status").read_text()
print(next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024)
"""
"""Prepares in a process that loads nothing else; prints the most memory that it held, in MiB."""


def cpu_s(work: Callable[[], object]) -> float:
    """Return processor seconds of this process and of those that it started and that ended."""
    before = spent_s()
    work()
    return spent_s() - before


def spent_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(files: Path, into: Path, plan: Plan, jobs: int = 1) -> None:
    for folder in (into, into.with_name(f"{into.name}.private")):
        shutil.rmtree(folder, ignore_errors=True)
    prepare(Order(sources=(files,), dataset=into, plan=plan, jobs=jobs))


def compare(name: str, count: int, repeats: int, folder: Path) -> Row:
    """Return what a file costs ours and plain, and how long one and two jobs take."""
    make, decoded, plan, share = KINDS[name]
    count = int(count * share)
    few = max(BOX_SLICES if "CT" in name else 4, count // 4)
    for part, files in (("all", count), ("few", few)):
        make(folder / part, files)
    out = folder / "set"
    paths = {part: sorted((folder / part).rglob("*.*")) for part in ("all", "few")}
    runs = []
    for _ in range(repeats):
        spent = {
            part: {
                "ours": cpu_s(lambda p=part: ours(folder / p, out, plan)),
                "plain": cpu_s(lambda p=part: plain(decoded, paths[p], folder / "plain.bin")),
                "whole": cpu_s(lambda p=part: whole(decoded, paths[p], folder / "whole.bin")),
            }
            for part in paths
        }
        run = {who: (spent["all"][who] - spent["few"][who]) / (count - few) for who in spent["all"]}
        runs.append({**run, "start": spent["few"]["ours"] - few * run["ours"]})
    jobs = [both(lambda n=jobs: ours(folder / "all", out, plan, n)) for jobs in (1, 2) * 2]
    return {
        "files": count,
        **{
            f"{who}_ms": 1e3 * median(run[who] for run in runs)
            for who in ("ours", "plain", "whole")
        },
        "ratio": median(run["plain"] / run["ours"] for run in runs),
        "whole_ratio": median(run["whole"] / run["ours"] for run in runs),
        "start_s": median(run["start"] for run in runs),
        "wall_s": [min(wall for wall, _ in jobs[at::2]) for at in (0, 1)],
        "cpu_s": [min(cpu for _, cpu in jobs[at::2]) for at in (0, 1)],
        "load": round(os.getloadavg()[0], 1),
    }


def both(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of the wall and of the processors."""
    before = spent_s()
    return _wall(work), spent_s() - before


def _wall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def crops(repeats: int) -> Row:
    """Return the seconds of a random crop from the data set and from compressed NIfTI."""
    import nibabel

    from confrere_client.sources.prepared import Prepared  # it loads torch

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        files = [folder / f"in/{at}.nii.gz" for at in range(3)]
        for file in files:
            nibabel.save(nibabel.Nifti1Image(ball(rng, VOLUME_VOXELS), np.eye(4)), file)
        prepare(
            Order(
                sources=(folder / "in",), dataset=folder / "set",
                plan=Plan(modality="mr", spacing_mm=(1, 1, 1)),
            )
        )  # fmt: skip
        records = Prepared(Prepared.Config(path=str(folder / "set")), Path()).records()

        def mapped(calls: int) -> float:
            def work() -> None:
                for _ in range(calls):
                    image = records[rng.integers(len(records))].decode()
                    z, y, x = (rng.integers(0, side - CROP_VOXELS + 1) for side in image.shape[1:])
                    np.array(_box(image[0], z, y, x))

            return _wall(work) / calls

        def unpacked() -> float:
            def work() -> None:
                image: Any = nibabel.load(files[rng.integers(len(files))])
                at = rng.integers(0, VOLUME_VOXELS - CROP_VOXELS + 1, 3)
                np.array(_box(image.dataobj, *at))

            return _wall(work)

        mapped(3)
        pairs = [(mapped(50), unpacked()) for _ in range(repeats)]
    return {
        "mapped_ms": 1e3 * median(one for one, _ in pairs),
        "nifti_ms": 1e3 * median(other for _, other in pairs),
        "ratio": median(other / one for one, other in pairs),
    }


def _box(image: Any, z: int, y: int, x: int) -> Any:
    edge = CROP_VOXELS
    return image[z : z + edge, y : y + edge, x : x + edge]


def memory(counts: Sequence[int]) -> list[Row]:
    """Return the most memory of the parent and of a worker for so many small files."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_pictures(folder / "in", count, 32, "png")
            with Watch(role_of=_role) as watch:
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", ALONE, str(folder)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                wall_s = time.perf_counter() - start
            rows.append(
                {
                    "files": count,
                    "parent_mib": float(done.stdout),
                    "worker_mib": watch.peaks()["worker"],
                    "wall_s": wall_s,
                }
            )
    return rows


def _role(_: int, line: str) -> str:
    """Return what a process is: its worker has the package's module on its line."""
    if "working.hand" in line:
        return "worker"
    return "parent" if "VmHWM" in line else ""


def show(result: Row) -> None:
    head = (
        "files", "ours ms", "plain ms", "ratio", "", "whole ms", "ratio", "", "start s",
        "wall 1 job", "wall 2 jobs", "cpu 1 job", "cpu 2 jobs",
    )  # fmt: skip
    print(f"{'':24}" + "".join(f"{word:>12}" for word in head))
    for name, row in result["kinds"].items():
        words = (
            str(row["files"]), f"{row['ours_ms']:.2f}", f"{row['plain_ms']:.2f}",
            f"{row['ratio']:.2f}", said(row["ratio"] >= RATIO), f"{row['whole_ms']:.2f}",
            f"{row['whole_ratio']:.2f}", said(row["whole_ratio"] >= RATIO),
            f"{row['start_s']:.1f}", *(f"{one:.1f}" for one in (*row["wall_s"], *row["cpu_s"])),
        )  # fmt: skip
        print(f"{name:24}" + "".join(f"{word:>12}" for word in words))
    crop = result["crop"]
    print(
        f"random crop of {CROP_VOXELS}^3 from {VOLUME_VOXELS}^3: {crop['mapped_ms']:.2f} ms mapped,"
        f" {crop['nifti_ms']:.0f} ms from .nii.gz: {crop['ratio']:.0f} times faster, "
        f"{said(crop['ratio'] >= CROP)}"
    )
    for row in result["memory"]:
        print(
            f"{row['files']:7} small files: parent {row['parent_mib']:.0f} MiB, "
            f"worker {row['worker_mib']:.0f} MiB, {row['wall_s']:.0f} s"
        )
    if len(result["memory"]) > 1:
        first, last = result["memory"][0], result["memory"][-1]
        growth = last["parent_mib"] / first["parent_mib"]
        print(f"the parent's memory grew by a factor of {growth:.2f}: {said(growth <= GROWTH)}")


def each_kind(names: Sequence[str], measured: Callable[[str, Path], Row]) -> dict[str, Row]:
    """Return what is *measured* of each kind, in a folder of its own."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(name, Path(folder))
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--files", type=int, default=400)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--small", type=int, nargs="*", default=[1_000, 5_000, 20_000])
    words.add_argument("--only-memory", action="store_true", help="keep the other figures")
    words.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS])
    words.add_argument("--quick", action="store_true", help="write nothing")
    given = words.parse_args()
    if given.only_memory:
        former = json.loads((Path(__file__).parent / "results/ingest.json").read_text())
        write("ingest", {**former, "memory": memory(given.small)})
        return
    kinds = each_kind(
        given.kinds,
        lambda name, folder: compare(name, given.files, given.repeats, folder),
    )
    result = {
        **facts(), "kinds": kinds, "crop": crops(given.repeats), "memory": memory(given.small)
    }  # fmt: skip
    show(result)
    if not given.quick:
        write("ingest", result)


if __name__ == "__main__":
    main()
