"""Can whoever holds the trained model tell who was in the data? Without privacy yes, with it no.

Members and strangers are images of noise, which have nothing in common to be learned: whatever the
model paints better of a member it remembers. The same attack meets both trainings, of equally many
steps; where it failed without privacy, its failure with privacy would say nothing.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tiny_runs import SIDE, noise
from torch import Tensor

from confrere_client.privacy.budget import Ledger
from confrere_client.privacy.private_round import Account, private_round
from confrere_client.train import Place, Trainer
from confrere_common.augment.pipeline import normalise
from confrere_common.config import Run
from confrere_common.exchange import Task
from confrere_common.loading import COMMON_FAMILIES, dump, parse_run
from confrere_common.model import build_model, load_weights, shared_weights
from confrere_common.privacy.accounting import Budget
from confrere_common.weights import Weights

MEMBERS, STRANGERS = noise(32, seed=1), noise(128, seed=2)
HERE = Place(site="north", round=1, seed=0)
LOOKS = 20
"""Masks under which an image is judged."""


def run_with(**privacy: float) -> Run:
    plain = {
        "name": "memory",
        "data": {"source": "phantom", "image_px": SIDE, "channels": 1, "dims": 2},
        "encoder": {"name": "vit", "dim": 32, "depth": 2, "heads": 2, "patch": 4},
        "method": {
            "name": "mae",
            "ratio": 0.5,
            "norm_target": False,
            "decoder_dim": 32,
            "decoder_heads": 2,
            "decoder_depth": 1,
        },
        "train": {"batch": 32, "steps_per_round": 160, "lr": 5e-3, "device": "cpu"},
        "federation": {"rounds": 1},
        "privacy": privacy or None,
    }
    return parse_run(plain, COMMON_FAMILIES)


def unvaried(images_BCYX: Tensor, _: torch.Generator) -> Tensor:
    return normalise(images_BCYX)


def trainer_of(run: Run) -> Trainer:
    trainer = Trainer(run)
    trainer.augment = unvaried  # type: ignore[assignment]
    return trainer


def start(run: Run) -> Weights:
    return shared_weights(build_model(run, seed=0))


@cache
def trained_openly() -> Weights:
    run = run_with()
    return trainer_of(run).round(start(run), {}, MEMBERS, place=HERE).weights


def trained_privately(folder: Path) -> Weights:
    run = run_with(epsilon=4.0, patients_per_step=16, micro_batch=32)
    account = Account(
        data_set="ward",
        study="study",
        owners_N=np.arange(len(MEMBERS)),
        ledger=Ledger(path=folder / "ledger.sqlite"),
        budget=Budget(epsilon=4.0, delta=1e-5),
    )
    task = Task(run=dump(run), round=1, seed=0, weights=start(run))
    return private_round(task, trainer_of(run), {}, MEMBERS, account, place=HERE).trained.weights


def told_apart(weights: Weights) -> float:
    """Return the chance that a member is ranked above a stranger: 0.5 if nothing is known."""
    model = build_model(run_with(), seed=0)
    load_weights(model, weights)
    images_BCYX = torch.cat([MEMBERS.images_BCYX, STRANGERS.images_BCYX])
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        losses = [
            model.losses(*model.views(images_BCYX, unvaried, generator)) for _ in range(LOOKS)
        ]
    inside = np.arange(len(images_BCYX)) < len(MEMBERS)
    return float(roc_auc_score(inside, -torch.stack(losses).mean(0).numpy()))


def test_without_privacy_every_member_is_known_again() -> None:
    assert told_apart(trained_openly()) > 0.95


def test_with_privacy_members_are_like_strangers(tmp_path: Path) -> None:
    assert told_apart(trained_privately(tmp_path)) < 0.75  # chance alone deviates by 0.06
