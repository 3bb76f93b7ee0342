"""Detection: boxes of blood cells (BCCD), AP at an overlap of 0.5, from scratch and pre-trained.

Three drawn sites; images at 96 px; the source's own test part; the last round answers. Sites
pre-train on the images that they fine-tune on, once for all seeds. Two boxes of the set are
degenerate: they are left out and counted.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from downstream_work import Desk, Start, Way

MEASURES = ("AP at 0.5", "AP at 0.5 of RBC", "AP at 0.5 of WBC", "AP at 0.5 of Platelets")
BASES = ("scratch",)
COLUMNS = ("data", "boxes", "start")
METHODS = ("simmim", "simclr")
ENCODER = {"name": "resnet", "depth": 18, "width": 16}
SPLITS = {"train": "", "val": "", "test": "test"}
"""The source's part -> ours: nothing is chosen on validation images, so they teach."""


def ways(desk: Desk) -> Iterator[Way]:
    """Yield the rows."""
    data = {"source": {"name": "catalog", "path": str(_table(desk))}, "image_px": 96,
            "split": {"name": "iid", "sites": 3}, "val_share": 0.0}  # fmt: skip
    for boxes in (1.0, 0.1):
        for method in (None, *METHODS):
            start = (
                Start(name=f"bccd {method}", plain=_pretrain(data, method), seed=0)
                if method
                else None
            )
            facts = {"data": "bccd", "boxes": f"{boxes:.0%}", "start": method or "scratch"}
            plain = _tuning(data, boxes)
            yield Way(data="bccd", plain=plain, tuned="federated", start=start, facts=facts)


def _pretrain(data: dict[str, Any], method: str) -> dict[str, Any]:
    return {
        "name": "bccd", "data": data, "encoder": ENCODER, "method": method,
        "augment": {"modality": "microscopy"},
        "train": {"batch": 32, "epochs_per_round": 1, "lr": 2e-3},
        "federation": {"rounds": 8, "keep_checkpoints": 1},
    }  # fmt: skip


def _tuning(data: dict[str, Any], boxes: float) -> dict[str, Any]:
    return {
        "name": "bccd-tuned", "data": data, "encoder": ENCODER,
        "augment": {"modality": "microscopy"},
        "train": {"batch": 8, "steps_per_round": 15, "lr": 2e-3},
        "federation": {"rounds": 20, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "detection"}, "labels": boxes, "decay": 1.0},
    }  # fmt: skip


def _table(desk: Desk) -> Path:
    """Write a catalog of the set, its VOC boxes as JSON; one label, that val is taken."""
    path = desk.place / "sets" / "bccd.csv"
    folder = desk.data / "blood_bccd_boxes"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "boxes", "split", "label"])
        for part, split in SPLITS.items():
            for name in (folder / f"ImageSets/Main/{part}.txt").read_text().split():
                boxes = list(_boxes(folder / f"Annotations/{name}.xml"))
                image = folder / f"JPEGImages/{name}.jpg"
                writer.writerow([image, json.dumps(boxes), split, "smear"])
    return path


def _boxes(file: Path) -> Iterator[list[Any]]:
    for one in ElementTree.parse(file).iter("object"):  # noqa: S314  (a file of the data set's own)
        frame = one.find("bndbox")
        if frame is not None:
            corners = [
                float(frame.findtext(side, "nan")) for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            yield [one.findtext("name", ""), *corners]
