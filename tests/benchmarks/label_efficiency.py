"""Label efficiency: a classifier from 1, 10 and 100 % of the labels, by where its encoder started.

``histo`` (LC25000, lung) has four Dirichlet sites, ``derm`` (HAM10000) its three natural ones; the
runs of the pre-training are those of ``configs/learning``. Starts: *scratch*; *each site alone*
(its own images, then its own labels); *federated*. Every way of fine-tuning gets the same rounds
and steps, and the last round answers: a tenth of the validation patients would be six groups of
near duplicates, on which a choice of rounds is a choice by lot.
Floors on the same labels: logistic regression on raw pixels and on the frozen starts.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from downstream_work import Desk, Start, Way

from confrere_common.loading import read_plain

CONFIGS = Path(__file__).parents[2] / "configs" / "learning"
FOLDERS = {"histo": "histo_lc25000", "derm": "derm_ham10000_3sites_128"}
LABELS = (0.01, 0.1, 1.0)
MEASURES = ("auc", "balanced_accuracy")
BASES = ("scratch", "each site alone, simclr")
COLUMNS = ("data", "labels", "fine-tuned", "start")

RATES = {"histo": 1e-3}
"""Peak rate of the pre-training where it is not that of ``configs/learning`` (2e-3): there, one
seed of three learned badly by the linear probe of validation patients."""

LONG = {"histo": 40}
"""Rounds of the pre-training where they are not those of ``configs/learning`` (10)."""

ROUNDS = 15
STEPS = {"histo": 4, "derm": 16}
"""Of a site in a round: on ``derm`` 60 steps in all named one class for nearly all images, and
reached 0.71 of AUC on validation patients; 240 reached 0.80."""

TUNING: dict[str, dict[str, Any]] = {
    "scratch": {"lr": 1e-3, "decay": 1.0},
    "warm": {"lr": 1e-3, "decay": 0.75},
}
"""Start -> peak rate and layer-wise decay, chosen on validation patients (docs/benefit.md)."""


def ways(_: Desk) -> Iterator[Way]:
    """Yield the rows, those that the aim is about first."""
    for data in FOLDERS:
        for labels in (0.1, 0.01, 1.0):
            yield from _ways(data, labels)


def _ways(data: str, labels: float) -> Iterator[Way]:
    pooled, own = pretrained(data), pretrained(data, arm="local")
    common = {"data": data, "labels": f"{labels:.0%}"}

    def way(tuned: str, start: Start | None, name: str) -> Way:
        facts = {**common, "fine-tuned": tuned, "start": name}
        warm = "scratch" if start is None else "warm"
        plain = tuning(data, labels, **TUNING[warm])
        return Way(data=data, plain=plain, tuned=tuned, start=start, facts=facts)

    for tuned in ("federated", "local"):
        yield way(tuned, None, "scratch")
        yield way(tuned, pooled, "federated simclr")
    yield way("raw", None, "raw pixels")
    yield way("probe", None, "untrained, frozen")
    yield way("probe", pooled, "federated simclr, frozen")
    yield way("local", own, "each site alone, simclr")


@cache
def pretrained(data: str, arm: str = "federated", leaves_out: str = "") -> Start:
    """Return the pre-training of a set, as ``configs/learning`` has it."""
    plain = read_plain(CONFIGS / f"{data}.yaml", ["federation.keep_checkpoints=1"])
    plain["train"]["lr"] = RATES.get(data, plain["train"]["lr"])
    plain["federation"]["rounds"] = LONG.get(data, plain["federation"]["rounds"])
    plain["data"]["source"]["path"] = f"{FOLDERS[data]}/manifest.csv"
    return Start(name=f"{data} {arm}", plain=plain, arm=arm, leaves_out=leaves_out)


def tuning(data: str, labels: float, *, lr: float, decay: float, **task: Any) -> dict[str, Any]:
    """Return the run of a fine-tuning on the same images, sites and patients."""
    plain = {**pretrained(data).plain}
    del plain["method"]
    return {
        **plain,
        "name": f"{data}-tuned",
        "data": {**plain["data"], "val_share": 0.0},
        "train": {"batch": 32, "steps_per_round": STEPS[data], "lr": lr},
        "federation": {"rounds": ROUNDS, "keep_checkpoints": 1},
        "finetune": {"task": {"name": "classification", **task}, "labels": labels, "decay": decay},
    }
