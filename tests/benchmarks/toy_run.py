"""A toy through ``confrere simulate`` itself: the start and memory that ``simulate.py`` tells."""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from timing import Row, peak_mib

from confrere_server.rounds import Asked, Event

TOY = {
    "name": "toy",
    "data": {
        "source": {"name": "npz", "path": "toy.npz"},
        "image_px": 32,
        "split": {"name": "iid", "sites": 3},
    },
    "encoder": {"name": "resnet", "depth": 18, "width": 8},
    "method": {"name": "simsiam", "hidden": 64, "out": 64, "bottleneck": 16},
    "augment": {"modality": "cxr"},
    "train": {"batch": 16, "steps_per_round": 2},
    "federation": {"rounds": 1},
    "floors": "cheap",
}


def processor_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def trial_toy() -> Row:
    """Run ``confrere simulate`` itself; its first round is seen where the display hears of it."""
    from confrere_deploy import cli
    from confrere_deploy.study import progress

    asked: list[float] = []
    plain = progress.Display.observer

    def observer(self: Any, arm: str, seed: int, rounds: int) -> Any:
        observe, watch = plain(self, arm, seed, rounds)

        def heard(event: Event) -> None:
            if isinstance(event, Asked):
                asked.append(processor_seconds())
            observe(event)

        return heard, watch

    progress.Display.observer = observer
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (240, 32, 32), np.uint8)
        np.savez(folder / "toy.npz", train_images=pixels, train_labels=np.arange(240) % 3)
        (folder / "toy.yaml").write_text(json.dumps(TOY))
        os.environ["XDG_CACHE_HOME"] = made
        sys.argv = ["confrere", "simulate", str(folder / "toy.yaml"), "--out", f"{made}/out"]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    return {
        "cpu_s_to_first_round": asked[0],
        "cpu_s": processor_seconds(),
        "peak_mib": peak_mib(),
    }
