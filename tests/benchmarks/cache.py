"""What reading from the cache costs: random batches against memory, random crops against MONAI.

    python tests/benchmarks/cache.py [--repeats 15] [--quick]

Prints a table and writes ``results/cache.json`` (``--quick`` writes nothing). One torch thread; the
page cache is warm; the variants take turns inside every repeat. ``ratio`` is the median of the
ratios of one repeat; ``best`` compares the fastest repeat of each, which is what a quiet machine
would show: other people's work on the machine slows the larger reads of the two more.

A batch is drawn at random from the mapped file, and from the same pixels as a uint8 tensor in
memory by ``index_select``. A crop is a random box of a random volume: ours reads that box alone;
MONAI's PersistentDataset keeps each volume as a tensor on disk, reads it whole, and crops. It gets
the volumes as int16, and both crops must have as many bytes: given uint16, MONAI widens to int32,
which doubles what it reads and makes it look several times slower than it is. ``bare`` is without
its tracking of metadata.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from confrere_client.data.images import Images, open_images
from confrere_common.family import Named

warnings.filterwarnings("ignore")

RESULTS = Path(__file__).parent / "results" / "cache.json"
BATCH_TARGET, CROP_TARGET = 0.8, 4.0
BATCHES = ((64, 3, 4000, 256), (72, 3, 4000, 256), (224, 3, 800, 64), (256, 3, 600, 64))
"""Pixels, channels, images, batch."""

VOLUMES = ((128, 64, 8), (160, 96, 6))
"""Voxels along each side of a volume and of a crop, volumes (uint16)."""

Work = Callable[[], object]


def take_turns(variants: Mapping[str, Work], repeats: int, calls: int) -> dict[str, list[float]]:
    """Return seconds a call for each variant, one figure a repeat; the order rotates."""
    names = list(variants)
    for name in names:
        variants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.perf_counter()
            for _ in range(calls):
                variants[name]()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def compared(seconds: Mapping[str, list[float]], other: str) -> dict[str, float]:
    """Return the times of the cache and of *other*, and how many times its throughput we reach."""
    return {
        "cache_ms": 1e3 * median(seconds["cache"]),
        "other_ms": 1e3 * median(seconds[other]),
        "throughput_ratio": median(
            b / a for a, b in zip(seconds["cache"], seconds[other], strict=True)
        ),
        "best_ratio": min(seconds[other]) / min(seconds["cache"]),
    }


def cached(folder: Path, pixels: np.ndarray, dims: int) -> Images:
    np.savez(folder / "all.npz", images=pixels)
    knobs = {"path": "all.npz", "dims": dims}
    return open_images(
        Named(name="npz", knobs=knobs),
        folder=folder,
        image_px=pixels.shape[1],
        cache_dir=folder / "cache",
    )


def batches(
    case: tuple[int, int, int, int], repeats: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Time random batches from the cache and from memory."""
    px, channels, count, batch = case
    with tempfile.TemporaryDirectory() as folder:
        noise = generator.integers(0, 256, (count, px, px, channels), np.uint8)
        images = cached(Path(folder), noise, 2)
        memory = torch.from_numpy(np.array(images.pixels))

        def rows() -> np.ndarray:
            return generator.integers(0, count, batch)

        seconds = take_turns(
            {
                "cache": lambda: images.batch(rows()),
                "memory": lambda: memory.index_select(0, torch.from_numpy(rows())),
            },
            repeats,
            calls=20,
        )
    return {
        "what": f"{batch} of {count} images {channels}x{px}x{px} uint8",
        "other": "uint8 tensor in memory, index_select",
        "target": BATCH_TARGET,
    } | compared(seconds, "memory")


def crops(
    case: tuple[int, int, int], repeats: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Time one random crop from the cache and from MONAI's PersistentDataset."""
    from monai.data import PersistentDataset, set_track_meta
    from monai.transforms import Compose, LoadImaged, RandSpatialCropd

    side, size, count = case
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        volumes = generator.integers(0, 1 << 16, (count, side, side, side), np.uint16)
        images = cached(folder, volumes, 3)
        for index, volume in enumerate(images.pixels):
            np.save(folder / f"{index}.npy", volume.view(np.int16))
        keys = ["image"]
        crop = RandSpatialCropd(keys, roi_size=(size,) * 3, random_size=False)
        monai = PersistentDataset(
            [{"image": str(folder / f"{index}.npy")} for index in range(count)],
            Compose([LoadImaged(keys, reader="NumpyReader", dtype=np.int16), crop]),
            cache_dir=folder / "monai",
        )

        def theirs(tracking: bool) -> torch.Tensor:
            set_track_meta(tracking)
            return monai[int(generator.integers(count))]["image"]

        def ours() -> torch.Tensor:
            corner = generator.integers(0, side - size + 1, 3).tolist()
            return images.crop(int(generator.integers(count)), corner, (size,) * 3)

        for _ in range(8 * count):  # until MONAI has written all that it keeps
            if theirs(True).nbytes != ours().nbytes:
                raise SystemExit("the crops differ in bytes: this would compare unlike work")
        seconds = take_turns(
            {"cache": ours, "monai": lambda: theirs(True), "bare": lambda: theirs(False)},
            repeats,
            calls=20,
        )
    return [
        {
            "what": f"crop {size}^3 of {side}^3, 16 bits",
            "other": f"MONAI PersistentDataset{extra}",
            "target": CROP_TARGET,
        }
        | compared(seconds, name)
        for name, extra in (("monai", ""), ("bare", ", bare"))
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'what':<44}{'cache ms':>10}{'other ms':>10}{'ratio':>8}{'best':>8}{'target':>8}  other"
    )
    for row in rows:
        reached = min(row["throughput_ratio"], row["best_ratio"])
        verdict = "" if reached >= row["target"] else "  MISSED"
        print(
            f"{row['what']:<44}{row['cache_ms']:>10.3f}{row['other_ms']:>10.3f}"
            f"{row['throughput_ratio']:>8.2f}{row['best_ratio']:>8.2f}{row['target']:>8.1f}"
            f"  {row['other']}{verdict}"
        )


def circumstances(repeats: int) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    cases = (BATCHES[:1], VOLUMES[:1]) if asked.quick else (BATCHES, VOLUMES)
    rows = [batches(case, asked.repeats, generator) for case in cases[0]]
    rows += [row for case in cases[1] for row in crops(case, asked.repeats, generator)]
    show(rows)
    if not asked.quick:
        RESULTS.write_text(
            json.dumps(circumstances(asked.repeats) | {"rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
