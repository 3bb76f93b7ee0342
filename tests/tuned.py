"""A fine-tuning carried out from its run file, and a run on lesions whose masks are known."""

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from confrere_common.loading import parse_run, read_plain
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.study.options import Options
from confrere_deploy.study.tune import carry_out
from confrere_deploy.study.warm import started_from


def tune(
    run_file: Path, out: Path, *, alone: bool = False, resume: bool = False, **section: Any
) -> dict[str, Any]:
    """Carry out a study and return its report as JSON has it."""
    plain = read_plain(run_file)
    plain |= {"stage": "finetune", **section.pop("run", {})}
    plain["finetune"] = section
    plain.pop("method", None)
    if section.get("start"):
        plain = started_from(plain, Path(section["start"])) | {}
        plain["finetune"]["start_digest"] = section.get("start_digest")
    options = Options(folder=run_file.parent, out=out, resume=resume, resources={})
    with (run_file.parent / "said.txt").open("a") as said:
        carry_out(parse_run(plain, ALL_FAMILIES), options, Console(file=said), alone=alone)
    found: dict[str, Any] = json.loads((out / "report.json").read_bytes())
    return found


def short(rounds: int = 2, **more: Any) -> dict[str, Any]:
    return {"federation": {"rounds": rounds}, **more}


def lesions(tmp_path: Path, **more: Any) -> Path:
    """Return the file of a run on phantom lesions, whose masks are known."""
    plain = yaml.safe_load((tmp_path / "run.yaml").read_text())
    knobs = {"modality": "lesion", "images": 48, "patients": 24, "sites": 2, "image_px": 16}
    plain["data"] = {"source": {"name": "phantom", **knobs}, "image_px": 16}
    plain["augment"] = {"modality": "dermatology", "changes": {"area": [0.8, 1]}}
    plain |= more
    path = tmp_path / "lesions.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path
