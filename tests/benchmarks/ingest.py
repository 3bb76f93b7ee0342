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
of the wall mean little where the load is over the number of cores.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from process_watch import Watch
from timing import Row, facts, said, write

sys.path.insert(0, str(Path(__file__).parents[1]))
import pacs

from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan

RATIO, CROP, GROWTH = 0.9, 50.0, 1.25
CROP_VOXELS, VOLUME_VOXELS = 96, 160
BOX_SLICES = 40

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

Decoded = Callable[[Sequence[Path]], Iterator[np.ndarray]]


def plain(decoded: Decoded, files: Sequence[Path], out: Path) -> None:
    """Write what *decoded* makes of *files*."""
    with out.open("wb") as target:
        for values in decoded(files):
            target.write(values.tobytes())


def whole(decoded: Decoded, files: Sequence[Path], out: Path) -> None:
    """Write it, and where each image lies, with digest and figures."""
    rows = []
    with out.open("wb") as target:
        for values in decoded(by_series(files)):
            rows.append(
                {
                    "offset": target.tell(), "shape": list(values.shape),
                    "digest": hashlib.sha256(values).hexdigest(),
                    "mean": float(values.mean()), "std": float(values.std()),
                }
            )  # fmt: skip
            target.write(values)
    pq.write_table(pa.Table.from_pylist(rows), out.with_suffix(".parquet"))


def by_series(files: Sequence[Path]) -> Sequence[Path]:
    """Return DICOM files sorted by what their headers say; others as they are."""
    import pydicom

    if files[0].suffix != ".dcm":
        return files
    found = []
    for file in files:
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        place = float(ds.ImagePositionPatient[2])
        found.append((str(ds.PatientID), str(ds.SeriesInstanceUID), place, file))
    return [file for *_, file in sorted(found)]


def plain_ct(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """Stack each folder's slices by position, in HU, windowed."""
    import pydicom

    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    for slices in folders.values():
        read = [pydicom.dcmread(file) for file in slices]
        read.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
        volume = np.stack([ds.pixel_array for ds in read]).astype(np.float32)
        volume *= np.float32(read[0].RescaleSlope)
        volume += np.float32(read[0].RescaleIntercept)
        yield levels(volume, -1000, 1000)


def plain_picture(files: Sequence[Path]) -> Iterator[np.ndarray]:
    for file in files:
        with Image.open(file) as image:
            colour = image.convert("RGB")
        if max(colour.size) > 256:
            colour = colour.resize((256, 256), Image.Resampling.BILINEAR)
        yield np.ascontiguousarray(np.moveaxis(np.asarray(colour), -1, 0))


def plain_nifti(files: Sequence[Path]) -> Iterator[np.ndarray]:
    import nibabel

    for file in files:
        image: Any = nibabel.as_closest_canonical(nibabel.load(file))
        volume = np.asarray(image.dataobj, np.float32).T
        low, high = np.percentile(volume[volume > volume.mean()], (0.5, 99.5))
        yield np.ascontiguousarray(levels(volume, low, high))


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return np.rint(scaled * 65535).astype(np.uint16)


def make_ct(folder: Path, count: int, syntax: Any = None) -> None:
    rng = np.random.default_rng(0)
    for at in range(count):
        series, z = divmod(at, BOX_SLICES)
        who = pacs.Person(
            number=series, name=f"A{series}^B", identity=f"PAT{series}", born="19500101"
        )
        body = pacs._body(np.random.default_rng(series), 256) + rng.normal(0, 9, (256, 256))
        ds = pacs._slice(who, z, body)
        path = folder / f"{series:03}/{z:03}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        (pacs.packed(ds, syntax) if syntax else ds).save_as(path)


def make_packed_ct(folder: Path, count: int) -> None:
    make_ct(folder, count, pacs.JPEG2000Lossless)


def make_pictures(folder: Path, count: int, px: int, suffix: str) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (px // 8, px // 8, 3), np.uint8))
        coarse.resize((px, px), Image.Resampling.BICUBIC).save(folder / f"{at:05}.{suffix}")


def make_nifti(folder: Path, count: int) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        values = _ball(rng, 64)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{at:05}.nii.gz")


def _ball(rng: np.random.Generator, side: int) -> np.ndarray:
    grid = np.indices((side,) * 3, np.float32) - side / 2
    inside = (grid**2).sum(0) < (side * 0.4) ** 2
    return (inside * 500 + rng.normal(60, 15, inside.shape)).astype(np.int16)


KINDS: dict[str, tuple[Callable[[Path, int], None], Decoded, Plan, float]] = {
    "CT slices, 256 px": (make_ct, plain_ct, Plan(image_px=None), 1),
    "CT slices, JPEG 2000": (make_packed_ct, plain_ct, Plan(image_px=None), 0.5),
    "JPEG, 224 px kept": (
        lambda folder, count: make_pictures(folder, count, 224, "jpg"),
        plain_picture, Plan(image_px=256), 1,
    ),
    "JPEG, 1024 to 256 px": (
        lambda folder, count: make_pictures(folder, count, 1024, "jpg"),
        plain_picture, Plan(image_px=256), 0.5,
    ),
    "PNG, 512 to 256 px": (
        lambda folder, count: make_pictures(folder, count, 512, "png"),
        plain_picture, Plan(image_px=256), 0.5,
    ),
    "NIfTI, 64 voxels, gz": (
        make_nifti, plain_nifti, Plan(modality="mr", image_px=None), 0.25,
    ),
}  # fmt: skip
"""Name -> how files are made, the plain decoding, our plan, the share of --files."""


def cpu_s(work: Callable[[], object]) -> float:
    """Return processor seconds of this process and of those that it started and that ended."""
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(files: Path, into: Path, plan: Plan, jobs: int = 1) -> None:
    for folder in (into, into.with_name(f"{into.name}.private")):
        shutil.rmtree(folder, ignore_errors=True)
    prepare(Order(sources=(files,), dataset=into, plan=plan, jobs=jobs))


def compare(name: str, count: int, repeats: int, folder: Path) -> Row:
    """Return what a file costs ours and plain, and how long one and two jobs take."""
    make, decoded, plan, _ = KINDS[name]
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
    jobs = [_both(lambda n=jobs: ours(folder / "all", out, plan, n)) for jobs in (1, 2) * 2]
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


def _both(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of the wall and of the processors."""
    before = _spent()
    return _wall(work), _spent() - before


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
            nibabel.save(nibabel.Nifti1Image(_ball(rng, VOLUME_VOXELS), np.eye(4)), file)
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


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--files", type=int, default=400)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--small", type=int, nargs="*", default=[1_000, 5_000, 20_000])
    words.add_argument("--only-memory", action="store_true", help="keep the other figures")
    words.add_argument("--quick", action="store_true", help="write nothing")
    given = words.parse_args()
    if given.only_memory:
        former = json.loads((Path(__file__).parent / "results/ingest.json").read_text())
        write("ingest", {**former, "memory": memory(given.small)})
        return
    kinds = {}
    for name, (_, _, _, share) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            kinds[name] = compare(name, int(given.files * share), given.repeats, Path(folder))
    result = {
        **facts(), "kinds": kinds, "crop": crops(given.repeats), "memory": memory(given.small)
    }  # fmt: skip
    show(result)
    if not given.quick:
        write("ingest", result)


if __name__ == "__main__":
    main()
