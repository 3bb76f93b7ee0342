"""Anomaly: chest radiographs of pneumonia among normal ones (PneumoniaMNIST, 28 px).

Only normal images teach; all labels serve to judge. The floor is low contrast, a small deviation of
an image's pixels, which knows nothing and reaches an AUROC of 0.826. What is frozen scores by the
distance to its five nearest normal images, or to their mean by their spread; what *foretells* was
trained to foretell the maps of normal images, and scores by its error at the worst place, or by how
*unusual* the error is beside that on normal images. Started from ``heteroae``, it starts from all
that this trained, its decoder too. The part that the set names for validation chooses the round. It
names no patient: each image counts as one. Four drawn sites; every seed has a pre-training of its
own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from downstream_work import Desk, Start, Way

from confrere_client.evaluation.paired import Weighed
from confrere_client.finetune.judge import Answers, Exam, judge_of

MEASURES = ("auroc", "auroc by unusual", "auroc by mahalanobis", "auroc of low contrast")
BASES = ("low contrast", "untrained")
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
        ("federated", "simclr", "simclr", "foretells"),
        ("federated", "heteroae", "heteroae", "foretells"),
    ):
        start = Start(name=f"pneumonia {method}", plain=_pretrain(method)) if method else None
        facts = {"data": "pneumonia", "start": name, "how": how}
        plain = _tuning()
        plain["finetune"]["start_decoder"] = (tuned, method) == ("federated", "heteroae")
        yield Way(data="pneumonia", plain=plain, tuned=tuned, start=start, facts=facts)


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return what the table shows."""
    found = judge_of(exam.run).figures(answers, exam)
    return {name: found[name] for name in MEASURES if name in found} | {
        f"auroc of {name}": floor for name, floor in floors(answers, exam).items()
    }


def floors(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return what low contrast reaches."""
    contrast = judge_of(exam.run).figures(answers, exam)["auroc by contrast"]
    return {"low contrast": lambda weights_DN: 1 - contrast(weights_DN)}


def _pretrain(method: str) -> dict[str, Any]:
    return {
        "name": "pneumonia", "data": DATA, "encoder": ENCODER, "method": method,
        "augment": {"modality": "cxr"}, "train": {"batch": 64, "steps_per_round": 5, "lr": 2e-3},
        "federation": {"rounds": 10, "keep_checkpoints": 1},
    }  # fmt: skip


def _tuning() -> dict[str, Any]:
    return {
        "name": "pneumonia-tuned", "data": {**DATA, "val_share": 0.0}, "encoder": ENCODER,
        "augment": {"modality": "cxr"}, "train": {"batch": 32, "steps_per_round": 10, "lr": 1e-3},
        "federation": {"rounds": 10, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "anomaly", "normal": "0"}, "decay": 1.0},
    }  # fmt: skip
