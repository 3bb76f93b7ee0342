"""A catalog of stripes, and an evaluation of it carried out from its run file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from rich.console import Console

from confrere_deploy.evaluation.carry import carry_out
from confrere_deploy.evaluation.contestants import contestants
from confrere_deploy.evaluation.wishes import Wishes
from confrere_deploy.study.options import Options

RUN: dict[str, Any] = {
    "name": "tiny",
    "stage": "finetune",
    "data": {
        "source": {"name": "catalog", "path": "table.csv"},
        "image_px": 16,
        "channels": 1,
        "val_share": 0.3,
    },
    "encoder": {"name": "vit", "patch": 4, "dim": 16, "depth": 1, "heads": 2},
    "augment": {"modality": "microscopy"},
    "train": {"batch": 8, "steps_per_round": 2, "device": "cpu"},
    "federation": {"rounds": 1},
    "finetune": {"task": "classification"},
}


def paint(folder: Path, patients: int = 72) -> Path:
    """Write stripes of two directions, a patient an image, with sites, sexes and ages."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    lines = ["path,patient,site,label,sex,age"]
    for number in range(patients):
        kind = number % 2
        wave = 128 + 60 * np.sin(0.9 * (x if kind else y)) + generator.normal(0, 20, (16, 16))
        Image.fromarray(wave.clip(0, 255).astype(np.uint8)).save(folder / f"i{number}.png")
        site, sex = f"site-{number // 2 % 2}", "FM"[number // 3 % 2]
        lines.append(f"i{number}.png,p{number},{site},{'ab'[kind]},{sex},{20 + number % 60}")
    (folder / "table.csv").write_text("\n".join(lines))
    return written(folder, RUN)


def written(folder: Path, plain: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def evaluated(
    run_file: Path, out: Path, *encoders: Path, resume: bool = False, **wishes: Any
) -> dict[str, Any]:
    """Carry out an evaluation and return its report as JSON has it."""
    plain = yaml.safe_load(run_file.read_text())
    found = contestants(plain, encoders, str(run_file))
    options = Options(folder=run_file.parent, out=out, resume=resume, resources={})
    carry_out(found, Wishes(encoders=encoders, **wishes), options, Console(quiet=True))
    report: dict[str, Any] = json.loads((out / "report.json").read_bytes())
    return report
