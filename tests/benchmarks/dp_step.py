"""What a private step costs: time and peak memory of each engine against the step without privacy.

    python tests/benchmarks/dp_step.py [--repeats 3] [--quick]

Prints a table and writes ``results/dp_step.json`` (``--quick`` writes nothing). Every arm is a
fresh process with one torch thread: its time is CPU time, the least of the repeats, and its memory
is the peak above what it held before the first step. A step is whole: images fetched, views drawn,
gradients, clip, noise (AES), AdamW; 32 patients of one image each, all of them drawn.

``privacy.engine: auto`` takes ghost wherever it equals the reference; the table is why. Aim: at
most 2.5 times the time of a step without privacy.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from timing import Row, facts, peak_mib, said, write

from confrere_client import schedule
from confrere_client.privacy.ghost import ghost
from confrere_client.privacy.gradients import vmapped
from confrere_client.privacy.private import Private, images_of
from confrere_client.train import Trainer
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.privacy.mechanism import secure_bytes
from confrere_common.privacy.terms import terms

PX, PATIENTS = 64, 32
AIM = 2.5

NETWORKS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "ResNet-18, 32 wide, BYOL": ({"name": "resnet", "width": 32}, {"name": "byol"}),
    "ResNet-18, 32 wide, SimMIM": ({"name": "resnet", "width": 32}, {"name": "simmim"}),
    "ViT, 192 wide, 6 deep, MAE": ({"name": "vit", "depth": 6}, {"name": "mae"}),
    "ViT, 192 wide, 6 deep, SimMIM": ({"name": "vit", "depth": 6}, {"name": "simmim"}),
}

ARMS: Mapping[str, tuple[str, int]] = {
    "without privacy": ("", PATIENTS),
    "vmap, 8 at once": ("vmap", 8),
    "vmap, 16 at once": ("vmap", 16),
    "vmap, 32 at once": ("vmap", 32),
    "ghost, 8 at once": ("ghost", 8),
    "ghost, 16 at once": ("ghost", 16),
    "ghost, 32 at once": ("ghost", 32),
}
"""Name -> engine and micro-batch."""


def step_of(network: str, arm: str) -> Callable[[], object]:
    encoder, method = NETWORKS[network]
    engine, micro_batch = ARMS[arm]
    plain = {
        "name": "step",
        "data": {"source": "phantom", "image_px": PX, "channels": 1, "dims": 2},
        "encoder": encoder,
        "method": method,
        "augment": {"modality": "microscopy"},
        "train": {"batch": PATIENTS, "device": "cpu"},
        "privacy": {
            "epsilon": 8,
            "noise_multiplier": 1.0,
            "patients_per_step": PATIENTS,
            "micro_batch": micro_batch,
        },
    }
    run = parse_run(plain, COMMON_FAMILIES)
    trainer = Trainer(run)
    trainer.model.train()
    images = torch.randint(0, 256, (PATIENTS, 1, PX, PX), dtype=torch.uint8)
    if not engine:
        _, generator = schedule.draws("north", seed=0, round=1)
        return lambda: trainer._step(images, generator, 0.5)
    assert run.privacy is not None
    made = Private(
        model=trainer.model,
        augment=trainer.augment,
        train=run.train,
        settings=run.privacy,
        terms=terms(run, PATIENTS),
        owners_N=np.arange(PATIENTS),
        charge=lambda _: None,
        engine={"vmap": vmapped, "ghost": ghost}[engine],
    )
    own, patients, draw = (
        dict(trainer.model.named_parameters()),
        images_of(made.owners_N),
        secure_bytes(),
    )

    def step() -> None:
        for name, gradient in made.step(patients, lambda rows: images[rows], draw).items():
            own[name].grad = gradient
        trainer.optimizer.step()
        trainer.model.after_step(0.5)

    return step


def measure(network: str, arm: str, repeats: int) -> Row:
    torch.set_num_threads(1)
    step = step_of(network, arm)
    before = peak_mib()
    step()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "mib": peak_mib() - before}


def child(network: str, arm: str, repeats: int) -> Row:
    command = [sys.executable, __file__, "--one", network, arm, "--repeats", str(repeats)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Row = json.loads(ran.stdout)
    return found


def table(rows: Mapping[str, Mapping[str, Row]]) -> None:
    for network, arms in rows.items():
        plain = arms["without privacy"]
        print(f"\n{network}")
        print(f"{'':18}{'CPU s':>8}{'time':>8}{'MiB':>8}{'memory':>8}")
        for arm, found in arms.items():
            times, more = found["seconds"] / plain["seconds"], found["mib"] / plain["mib"]
            print(f"{arm:18}{found['seconds']:8.3f}{times:7.2f}x{found['mib']:8.0f}{more:7.2f}x")
        best = min(arms[arm]["seconds"] for arm in arms if arm.startswith("ghost"))
        print(f"at most {AIM} times the time: {said(best <= AIM * plain['seconds'])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "ARM"))
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(*asked.one, repeats=asked.repeats)))
        return
    networks = list(NETWORKS)[2:3] if asked.quick else list(NETWORKS)
    rows: dict[str, dict[str, Row]] = {}
    for name in networks:
        rows[name] = {arm: child(name, arm, asked.repeats) for arm in ARMS}
        table({name: rows[name]})
    if not asked.quick:
        write("dp_step", {**facts(), "patients": PATIENTS, "px": PX, "networks": rows})


if __name__ == "__main__":
    main()
