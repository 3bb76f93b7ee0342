"""A prepared data set of volumes of unequal sizes: bright balls on noise, outlined, two classes."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan

SHAPES = [(12, 14, 10), (16, 12, 9), (11, 10, 18)]
"""Along X Y Z."""

STEPS_MM = (1.0, 1.0, 2.0)
"""Along X Y Z, of the files and of the data set."""


def balls(folder: Path, patients: int = 12, *, outlined: bool = True, lack: int = 0) -> Path:
    """Return a data set, a patient a volume; *lack* of the outlines are empty."""
    source = folder / "in"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["path,patient,label,mask"]
    for number in range(patients):
        shape = SHAPES[number % len(SHAPES)]
        centre = [rng.integers(4, side - 4) for side in shape]
        apart = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
        ball = (apart**2).sum(0) < (12 if number % 2 else 5)
        mask = (ball if number >= lack else ball & False).astype(np.uint8)
        values = rng.integers(0, 90, shape) + 160 * (mask if lack else ball)
        for name, array in (("image", values.astype(np.uint8)), ("mask", mask)):
            nib.save(
                nib.Nifti1Image(array, np.diag([*STEPS_MM, 1])), source / f"{name}{number}.nii"
            )
        drawn = f"mask{number}.nii" if outlined else ""
        lines.append(f"image{number}.nii,p{number},{'ab'[number % 2]},{drawn}")
    table = source / "table.csv"
    table.write_text("\n".join(lines))
    plan = Plan(image_px=None)
    secret = folder / "patient.key"  # always the same: exams lie in the order of their keys
    secret.touch(mode=0o600)
    secret.write_bytes(bytes(range(32)))
    prepare(Order(sources=(source,), dataset=folder / "set", plan=plan, table=table, secret=secret))
    return folder / "set"


def crop_run(**sections: Any) -> dict[str, Any]:
    """Return a quick run, as YAML holds it, on crops of the data set ``set`` beside its file."""
    plain: dict[str, Any] = {
        "name": "crops",
        "data": {
            "source": {"name": "prepared", "path": "set"},
            "crop_px": 8,
            "channels": 1,
            "dims": 3,
            "split": {"name": "iid", "sites": 2},
        },
        "encoder": {"name": "resnet", "width": 8, "groups": 4, "stem": "small"},
        "augment": {"modality": "mri"},
        "train": {"batch": 4, "steps_per_round": 1, "device": "cpu"},
        "federation": {"rounds": 2},
        "floors": "none",
    }
    for name, changed in sections.items():
        held = plain.get(name)
        merge = isinstance(held, dict) and isinstance(changed, dict) and "name" not in changed
        plain[name] = {**held, **changed} if merge else changed  # type: ignore[dict-item]
    return plain
