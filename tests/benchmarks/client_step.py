"""What our training loop costs: images a second against a bare torch loop doing the same.

    python tests/benchmarks/client_step.py [--repeats 15] [--quick]

Prints a table and writes ``results/client_step.json`` (``--quick`` writes nothing). One torch
thread; both loops take turns inside every repeat, and the ratio is the median of the ratios of one
repeat. With CUDA present the same is measured there, in bfloat16 and channels_last.

``ours`` is ``Trainer.round``: a site's rows of a memory-mapped file, through ``Subset``; its own
figures ``seen`` and ``seconds`` count, as a report shows them. ``bare`` gathers from a uint8 tensor
in memory, and has the same network, method, augmentation, batch, fused AdamW with the same two
groups, clipping and moving average; it keeps nothing, checks nothing and reads no loss.

How little of a step is augmentation is measured by ``augment.py``.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from timing import Row, Work, facts, in_turns, ratio, said, write

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.subset import Subset
from confrere_client.device import arithmetic
from confrere_client.train import Place, Trainer
from confrere_common.augment.pipeline import augmentation
from confrere_common.config import Run
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.model import build_model, input_of, shared_weights

TARGET = 0.95
PX, BATCH, IMAGES = 64, 64, 1024


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and method, and the steps that a repeat times on each device."""

    name: str
    encoder: Mapping[str, object]
    method: Mapping[str, object]
    steps: Mapping[str, int]


CASES = (
    Case(
        name="ResNet-18, 16 wide, BYOL",
        encoder={"name": "resnet", "depth": 18, "width": 16},
        method={"name": "byol"},
        steps={"cpu": 4, "cuda": 100},
    ),
    Case(
        name="ViT of one block, SimCLR",
        encoder={"name": "vit", "depth": 1, "dim": 16, "heads": 1, "patch": 16},
        method={"name": "simclr", "hidden": 32, "out": 16},
        steps={"cpu": 20, "cuda": 200},
    ),
)


def run_of(case: Case, device: str) -> Run:
    plain = {
        "name": "client-step",
        "data": {"source": "npz", "image_px": PX, "channels": 3, "dims": 2},
        "encoder": dict(case.encoder),
        "method": dict(case.method),
        "augment": {"modality": "dermatology"},
        "train": {"batch": BATCH, "steps_per_round": case.steps[device], "device": device},
    }
    return parse_run(plain, COMMON_FAMILIES)


def ours(run: Run, images: Subset) -> Work:
    trainer = Trainer(run)
    weights = shared_weights(trainer.model)
    place = Place(site="site", round=1, seed=0)

    def work() -> float:
        metrics = trainer.round(weights, {}, images, place=place).metrics
        return metrics["seconds"] / metrics["seen"]

    return work


def bare(run: Run, pixels: torch.Tensor) -> Work:
    train, device = run.train, torch.device(run.train.device)
    model = build_model(run, seed=0).to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    channels, size = input_of(run)
    augment = augmentation(run.augment, channels=channels, size=size)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(pixels), (train.batch,), generator=generator)
        images = pixels[rows].to(device, non_blocking=True)
        views = model.views(images, augment, generator)
        with arithmetic(train, device):
            loss = model.losses(*views).float().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        optimizer.step()
        model.after_step(0.5)

    def work() -> float:
        start = time.perf_counter()
        for _ in range(train.steps_per_round):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / (train.steps_per_round * train.batch)

    return work


def measure(case: Case, device: str, images: Images, repeats: int) -> Row:
    """Return images a second of both, and ours over bare."""
    run = run_of(case, device)
    rows = np.arange(0, len(images), 2)
    memory = torch.from_numpy(np.array(images.pixels[rows]))
    works = {"ours": ours(run, Subset(images, rows)), "bare": bare(run, memory)}
    runs = in_turns(works, repeats)
    per_image = {name: median(one[name] for one in runs) for name in works}
    step = ratio(runs, "bare", "ours")
    return {
        "case": case.name,
        "device": device,
        "batch": BATCH,
        "px": PX,
        "images_per_s": {name: round(1 / seconds, 1) for name, seconds in per_image.items()},
        "over_bare_ms_per_step": round(1e3 * BATCH * (per_image["ours"] - per_image["bare"]), 3),
        "ratio": round(step, 3),
        "target": TARGET,
        "verdict": said(step >= TARGET),
    }


def show(row: Row) -> None:
    rates = row["images_per_s"]
    print(
        f"{row['case']:28} {row['device']:5} {rates['ours']:10.1f} {rates['bare']:10.1f} "
        f"{row['ratio']:7.3f} {row['over_bare_ms_per_step']:9.3f}   {row['verdict']}",
        flush=True,
    )


def stored(folder: Path) -> Images:
    path = folder / "pixels.npy"
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, PX, PX), np.uint8)
    np.save(path, noise)
    mapped = np.load(path, mmap_mode="r")
    return Images(pixels=mapped, catalog=catalog_of([]), skipped=(), digest="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="5 repeats, write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 5 if given.quick else given.repeats
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    print(f"images a second at {PX} px, batch {BATCH}; the ratio must be {TARGET} or more:")
    print(f"{'':34} {'ours':>10} {'bare':>10} {'ratio':>7} {'ms/step':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = stored(Path(folder))
        for device in devices:
            for case in CASES:
                rows.append(measure(case, device, images, repeats))
                show(rows[-1])
    if not given.quick:
        write("client_step", {**facts(), "repeats": repeats, "rows": rows})


if __name__ == "__main__":
    main()
