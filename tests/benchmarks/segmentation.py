"""Segmentation: Dice from 10 and 100 % of the masks, from scratch and pre-trained without masks.

``hippocampus``: 3-D (MSD Task04, its two parts as one structure: apart they wanted more steps than
there was time for), 24 voxels a side, pre-trained by three drawn sites. ``isic``: 2-D lesions (ISIC
2017, 98 images), pre-trained by the three sites of HAM10000,
which holds none of these images. One hospital fine-tunes. All ways get the same rounds, and the
last one answers: a tenth of the validation patients would be two or three. ``medsass`` and
``resection`` train a decoder too: a start gives the encoder alone, or both. Every seed has a
pre-training of its own.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from downstream_work import Desk, Start, Way

from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan

STARTS: Mapping[str, Mapping[str, Any] | None] = {
    "scratch": None,
    "simmim": {"name": "simmim"},
    "medsass": {"name": "medsass", "width": 8},
    "resection": {"name": "resection", "width": 8},
}
"""Start -> the method that it was trained by, its decoder as wide as the task's."""

WITH_DECODER = ("medsass", "resection")
MASKS = (0.1, 1.0)
MEASURES = ("dice", "iou", "hd95 over diagonal")
BASES = ("scratch",)
COLUMNS = ("data", "masks", "start", "taken over")
ENCODERS = {
    "hippocampus": {"name": "resnet", "depth": 18, "width": 8, "stem": "small"},
    "isic": {"name": "resnet", "depth": 18, "width": 16},
}
LR = 3e-3


def ways(desk: Desk) -> Iterator[Way]:
    """Yield the rows: few masks first."""
    for data, make in (("hippocampus", _hippocampus), ("isic", _isic)):
        for masks in MASKS:
            for name, method in STARTS.items():
                for decoder in (False, True) if name in WITH_DECODER else (False,):
                    tuned, plain = make(desk, masks)
                    plain["finetune"]["start_decoder"] = decoder
                    start = _start(desk, data, name, method) if method else None
                    taken = "encoder and decoder" if decoder else "encoder" if method else ""
                    facts = {"data": data, "masks": f"{masks:.0%}", "start": name,
                             "taken over": taken}  # fmt: skip
                    yield Way(data=data, plain=plain, tuned=tuned, start=start, facts=facts)


def _start(desk: Desk, data: str, name: str, method: Mapping[str, Any]) -> Start:
    return Start(name=f"{data} {name}", plain=_pretrain(desk, data, method))


def _pretrain(desk: Desk, data: str, method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run of a pre-training."""
    common = {"method": dict(method), "encoder": ENCODERS[data]}
    if data == "hippocampus":
        train = {"batch": 8, "epochs_per_round": 1, "lr": 2e-3}
        return {"name": data, "data": _volumes(desk), "augment": {"modality": "mri"},
                "train": train, "federation": {"rounds": 10, "keep_checkpoints": 1},
                **common}  # fmt: skip
    source = {"name": "catalog", "path": "derm_ham10000_3sites_128/manifest.csv",
              "path_column": "file", "patient_column": "lesion"}  # fmt: skip
    return {"name": data, "data": {"source": source, "image_px": 64, "split": "natural"},
            "augment": {"modality": "dermatology"},
            "train": {"batch": 32, "epochs_per_round": 1, "lr": 2e-3},
            "federation": {"rounds": 4, "keep_checkpoints": 1}, **common}  # fmt: skip


def _hippocampus(desk: Desk, masks: float) -> tuple[str, dict[str, Any]]:
    return "here", {
        "name": "hippocampus", "data": {**_volumes(desk), "val_share": 0.0},
        "encoder": ENCODERS["hippocampus"], "augment": {"modality": "mri"},
        "train": {"batch": 4, "steps_per_round": 20, "lr": 4e-3},
        "federation": {"rounds": 6, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "segmentation", "width": 8}, "labels": masks, "decay": 1.0},
    }  # fmt: skip


def _isic(desk: Desk, masks: float) -> tuple[str, dict[str, Any]]:
    table = _table(
        desk, "isic", desk.data / "derm_isic2017_512", {"path": "file", "mask": "mask"}, "lesion"
    )
    data = {"source": {"name": "catalog", "path": str(table)}, "image_px": 64, "test_share": 0.5,
            "val_share": 0.0}  # fmt: skip
    return "here", {
        "name": "isic", "data": data, "encoder": ENCODERS["isic"],
        "augment": {"modality": "dermatology"},
        "train": {"batch": 8, "steps_per_round": 6, "lr": LR},
        "federation": {"rounds": 12, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "segmentation", "width": 8}, "labels": masks, "decay": 1.0},
    }  # fmt: skip


def _volumes(desk: Desk) -> dict[str, Any]:
    """Return the data of a run, prepared from NIfTI as ``confrere client prepare`` does it."""
    place = desk.place / "sets" / "hippocampus"
    if not (place / "manifest.json").exists():
        folder = desk.data / "mri_msd_hippocampus"
        whole = desk.place / "sets" / "hippocampus-labels"
        _merged(folder / "labels", whole)
        table = _table(
            desk, "hippocampus", folder, {"path": "file", "mask": "label"}, "brain",
            elsewhere={"mask": whole},
        )  # fmt: skip
        sources = (folder / "images", whole)
        prepare(Order(sources=sources, dataset=place, plan=Plan(modality="mr"), table=table))
    return {"source": {"name": "prepared", "path": str(place)}, "image_px": 24,
            "split": {"name": "iid", "sites": 3}}  # fmt: skip


def _merged(labels: Path, into: Path) -> None:
    """Write each label map with all structures as one."""
    import nibabel

    into.mkdir(parents=True, exist_ok=True)
    for path in sorted(labels.glob("*.nii.gz")):
        image: Any = nibabel.load(path)
        there = (np.asarray(image.dataobj) > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(there, image.affine), into / path.name)


def _table(
    desk: Desk,
    name: str,
    folder: Path,
    columns: dict[str, str],
    label: str,
    elsewhere: Mapping[str, Path] = MappingProxyType({}),
) -> Path:
    """Write a catalog with paths, and one label for all: without any, nobody is drawn for val."""
    path = desk.place / "sets" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "label"])
        for row in rows:
            files = {name: folder / row[old] for name, old in columns.items()}
            files |= {name: other / files[name].name for name, other in elsewhere.items()}
            writer.writerow([*files.values(), label])
    return path
