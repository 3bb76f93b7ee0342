"""What varying images costs: ours, MONAI's dictionary transforms, and a ResNet-18's training step.

    python tests/benchmarks/augment.py [--repeats 9] [--no-step] [--quick]

Prints tables and writes ``results/augment.json`` (``--quick`` writes nothing). One torch thread;
the variants take turns inside every repeat, and a ratio is the median of the ratios of one repeat,
so a loaded machine blurs it but does not bend it. A sample is an image that becomes two views.

MONAI gets the same recipe, image by image from stored uint8 tensors in memory: one affine
resampling, mirrors, contrast about the mean, brightness, gamma, blur, noise, and a clip that
normalises; what it has no dictionary transform for (saturation, hue) it need not do. ``monai`` is
as its documentation builds it, ``monai bare`` without the tracking of metadata.

The step is forward, backward and no optimizer, on both views of the batch at once. With CUDA it is
measured there too, in bfloat16 and channels_last, synchronised.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from confrere_common.augment.pipeline import augmentation
from confrere_common.augment.presets import PRESETS, Augmentation, Ranges
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.family import Named

warnings.filterwarnings("ignore")

RESULTS = Path(__file__).parent / "results" / "augment.json"
BATCHES = {64: 32, 224: 8}
CUDA_BATCHES = {64: 256, 224: 128}
CHANNELS = {"dermatology": 3, "cxr": 1}
MONAI_TARGETS = {64: 10.0, 224: 4.0}
CPU_SHARE, CUDA_SHARE = 0.05, 0.15

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One preset at one size: what to time, and for how many samples."""

    modality: str
    px: int
    batch: int
    device: str
    works: Mapping[str, Work]


def ours(modality: str, images_BCYX: Tensor) -> Work:
    size = tuple(images_BCYX.shape[2:])
    section = Augmentation(modality=modality)
    make = augmentation(section, channels=images_BCYX.shape[1], size=size)
    generator = torch.Generator().manual_seed(0)
    return lambda: (make(images_BCYX, generator), make(images_BCYX, generator))


def monai_transform(ranges: Ranges, px: int) -> Callable[[dict[str, Any]], Any]:
    """Return the preset's recipe as MONAI's dictionary transforms."""
    from monai import transforms as mt

    keys, low = ["image"], math.sqrt(ranges.area[0])
    contrast = ranges.contrast[1] - 1
    chain: list[Any] = [
        mt.ScaleIntensityRanged(keys, a_min=0, a_max=255, b_min=0, b_max=1),
        mt.RandAffined(
            keys,
            prob=1.0,
            rotate_range=math.radians(ranges.rotation_degrees),
            scale_range=((low - 1, 0), (low - 1, 0)),
            translate_range=(1 - low) * px / 4,
            mode="bilinear",
            padding_mode=ranges.outside,
            cache_grid=True,
            spatial_size=(px, px),
        ),
    ]
    for axis, probability in enumerate(ranges.flips[1:]):
        if probability:
            chain.append(mt.RandFlipd(keys, prob=probability, spatial_axis=axis))
    if ranges.gamma_probability:
        chain.append(
            mt.RandAdjustContrastd(keys, prob=ranges.gamma_probability, gamma=ranges.gamma)
        )
    sigma = tuple(part * px for part in ranges.blur_sigma)
    chain += [
        mt.RandScaleIntensityFixedMeand(keys, prob=1.0, factors=contrast),
        mt.RandShiftIntensityd(keys, offsets=ranges.brightness, prob=1.0),
        mt.RandGaussianSmoothd(keys, sigma_x=sigma, sigma_y=sigma, prob=ranges.blur_probability),
        mt.RandGaussianNoised(keys, prob=ranges.noise_probability, std=ranges.noise_std[1]),
        mt.ScaleIntensityRanged(keys, a_min=0, a_max=1, b_min=-2, b_max=2, clip=True),
    ]
    return mt.Compose(chain).set_random_state(0)


def monai(modality: str, images_BCYX: Tensor, *, tracked: bool) -> Work:
    from monai.data.meta_obj import set_track_meta

    transform = monai_transform(PRESETS[modality], images_BCYX.shape[-1])

    def view() -> Tensor:
        return torch.stack([transform({"image": one})["image"] for one in images_BCYX])

    def work() -> tuple[Tensor, Tensor]:
        set_track_meta(tracked)
        return view(), view()

    return work


def step(encoder: Encoder, images_BCYX: Tensor) -> Work:
    cuda = images_BCYX.is_cuda
    views = torch.randn(2 * len(images_BCYX), *images_BCYX.shape[1:], device=images_BCYX.device)
    if cuda:
        encoder = encoder.to("cuda", memory_format=torch.channels_last)
        views = views.contiguous(memory_format=torch.channels_last)

    def work() -> None:
        encoder.zero_grad(set_to_none=True)
        with torch.autocast(views.device.type, torch.bfloat16, enabled=cuda):
            loss = encoder(views).square().mean()
        loss.backward()

    return work


def stored(batch: int, channels: int, px: int, device: str) -> Tensor:
    """Return smooth images with some grain, as uint8."""
    coarse = torch.rand(batch, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(px, px), mode="bicubic")
    grain = 0.05 * torch.rand(smooth.shape, generator=torch.Generator().manual_seed(1))
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8).to(device)


def case(modality: str, px: int, device: str, *, with_step: bool) -> Case:
    batch = (CUDA_BATCHES if device == "cuda" else BATCHES)[px]
    images_BCYX = stored(batch, CHANNELS[modality], px, device)
    works: dict[str, Work] = {"ours": ours(modality, images_BCYX)}
    if device == "cpu":
        works["monai"] = monai(modality, images_BCYX, tracked=True)
        works["monai bare"] = monai(modality, images_BCYX, tracked=False)
    if with_step:
        resnet = Named(name="resnet", knobs={"depth": 18, "width": 64})
        encoder = build_encoder(resnet, channels=CHANNELS[modality], size=(px, px))
        works["step"] = step(encoder, images_BCYX)
    return Case(modality=modality, px=px, batch=batch, device=device, works=works)


def timed(work: Work, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Return microseconds per sample and the ratios to ours, all medians."""
    names = list(case.works)
    for work in case.works.values():
        work()
    runs: list[dict[str, float]] = []
    for repeat in range(repeats):
        turn = repeat % len(names)
        order = names[turn:] + names[:turn]
        runs.append({name: timed(case.works[name], case.device) for name in order})
    per_sample = {n: median(run[n] for run in runs) / case.batch * 1e6 for n in names}
    ratios = {n: median(run[n] / run["ours"] for run in runs) for n in names if n != "ours"}
    row: dict[str, Any] = {"modality": case.modality, "px": case.px, "device": case.device}
    row |= {"batch": case.batch, "us_per_sample": per_sample, "times_ours": ratios}
    if "step" in ratios:
        row["share_of_step"] = 1 / ratios["step"]
    return row


def verdict(row: dict[str, Any]) -> list[str]:
    """Return what the row proves or fails to."""
    said = []
    if "monai" in row["times_ours"]:
        due, got = MONAI_TARGETS[row["px"]], row["times_ours"]["monai"]
        bare = row["times_ours"]["monai bare"]
        said.append(f"monai {got:.1f}x (at least {due:.0f}x: {_met(got >= due)}), bare {bare:.1f}x")
    if "share_of_step" in row:
        due = CUDA_SHARE if row["device"] == "cuda" else CPU_SHARE
        got = row["share_of_step"]
        said.append(f"{got:.1%} of a step (at most {due:.0%}: {_met(got <= due)})")
    return said


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def show(row: dict[str, Any]) -> None:
    figures = "  ".join(f"{name} {us:9.0f}" for name, us in row["us_per_sample"].items())
    print(f"{row['modality']:12} {row['px']:4} px {row['device']:5} us per sample: {figures}")
    for said in verdict(row):
        print(f"{'':24}{said}")


def facts(repeats: int) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "device": device,
        "torch": torch.__version__,
        "repeats": repeats,
        "threads": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-step", action="store_true", help="leave out the ResNet-18")
    parser.add_argument("--quick", action="store_true", help="3 repeats, write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 3 if given.quick else given.repeats
    rows = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for px in BATCHES:
            for modality in CHANNELS:
                one = case(modality, px, device, with_step=not given.no_step)
                row = measure(one, repeats)
                rows.append({**row, "verdict": verdict(row)})
                show(row)
    if not given.quick:
        RESULTS.write_text(json.dumps({**facts(repeats), "rows": rows}, indent=2) + "\n")
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
