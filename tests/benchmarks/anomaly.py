"""Anomaly: chest radiographs of pneumonia among normal ones (PneumoniaMNIST, 28 px).

Only normal images teach; all labels serve to judge. The floor is the contrast of an image, the
deviation of its pixels, which knows nothing and reaches an AUROC of 0.826. The set names no
patient: each image counts as one. Four drawn sites; one pre-training serves all seeds.
"""

from collections.abc import Iterator
from typing import Any

from downstream_work import Desk, Start, Way

SCORES = ("foretold", "knn", "mahalanobis", "contrast")
MEASURES = tuple(f"auroc by {name}" for name in SCORES)
BASES = ("raw pixels", "untrained", "scratch")
COLUMNS = ("data", "start", "how")
DATA = {
    "source": {"name": "npz", "path": "cxr_pneumoniamnist/pneumoniamnist_rebuilt.npz"},
    "image_px": 28,
    "split": {"name": "iid", "sites": 4},
}
ENCODER = {"name": "resnet", "depth": 18, "width": 16, "stem": "large"}


def ways(_: Desk) -> Iterator[Way]:
    """Yield floors, frozen starts, and what learned to foretell normal images."""
    for tuned, method, name, how in (
        ("raw", None, "raw pixels", "frozen"),
        ("probe", None, "untrained", "frozen"),
        ("probe", "heteroae", "heteroae", "frozen"),
        ("probe", "simclr", "simclr", "frozen"),
        ("federated", None, "scratch", "foretells"),
        ("federated", "simclr", "simclr, tuned", "foretells"),
    ):
        start = (
            Start(name=f"pneumonia {method}", plain=_pretrain(method), seed=0) if method else None
        )
        facts = {"data": "pneumonia", "start": name, "how": how}
        yield Way(data="pneumonia", plain=_tuning(), tuned=tuned, start=start, facts=facts)


def _pretrain(method: str) -> dict[str, Any]:
    return {
        "name": "pneumonia", "data": DATA, "encoder": ENCODER, "method": method,
        "augment": {"modality": "cxr"}, "train": {"batch": 64, "steps_per_round": 5, "lr": 2e-3},
        "federation": {"rounds": 10, "keep_checkpoints": 1},
    }  # fmt: skip


def _tuning() -> dict[str, Any]:
    return {
        "name": "pneumonia-tuned", "data": DATA, "encoder": ENCODER, "augment": {"modality": "cxr"},
        "train": {"batch": 32, "steps_per_round": 5, "lr": 1e-3},
        "federation": {"rounds": 10, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "anomaly", "normal": "0"}, "decay": 1.0},
    }  # fmt: skip
