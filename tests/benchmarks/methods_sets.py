"""The real sets that ``methods.py`` trains on, and the sizes of models and batches for each."""

from collections.abc import Mapping
from typing import Any

import torch

from confrere_common.encoder import ENCODERS
from confrere_common.method import METHODS

LARGE = torch.cuda.is_available()
ROUNDS = 5
DRAWN = {"name": "dirichlet", "sites": 4, "alpha": 0.5}
SETS: Mapping[str, Mapping[str, Any]] = {
    "derm": {
        "source": {
            "name": "catalog",
            "path": "derm_ham10000_3sites_128/manifest.csv",
            "path_column": "file",
            "patient_column": "lesion",
        },
        "split": "natural",
        "modality": "dermatology",
    },
    "histo": {
        "source": {
            "name": "catalog",
            "path": "histo_lc25000/manifest.csv",
            "path_column": "file",
            "patient_column": "near_duplicate_group",
        },
        "split": DRAWN,
        "modality": "histology",
    },
    "pneumonia": {
        "source": {"name": "npz", "path": "cxr_pneumoniamnist/pneumoniamnist_rebuilt.npz"},
        "split": DRAWN,
        "modality": "cxr",
        "image_px": 28,
    },
    "adrenal": {
        "source": {
            "name": "npz",
            "path": "ct_adrenalmnist3d_64/adrenalmnist3d_64.npz",
            "dims": 3,
        },
        "split": DRAWN,
        "modality": "ct",
        "image_px": 64 if LARGE else 24,
        "rounds": 3,
    },
}
ENCODER_KNOBS: Mapping[str, Mapping[str, Any]] = {
    "resnet": {} if LARGE else {"width": 16},
    "vit": {"size": "tiny"} if LARGE else {"dim": 96, "depth": 4, "heads": 3},
    "swin": {} if LARGE else {"dim": 12, "depths": [2, 2, 2], "window": 4},
}
VOLUME_KNOBS: Mapping[str, Mapping[str, Any]] = {"resnet": {"stem": "large"}}
"""What differs for volumes: at full size a ResNet's first maps would take most of the time."""

METHOD_KNOBS: Mapping[str, Mapping[str, Any]] = {
    "cass": {} if LARGE else {"partner_width": 96},
}
"""A partner as small as the encoder: with the usual one its steps would be a ViT-Tiny's."""

OF_SWIN = ("simmim", "smit", "smit_centred", "swinunetr")
"""Methods whose papers, or the survey's row of them, pre-train a Swin transformer in 3-D."""

RATES = {"resnet": 2e-3, "vit": 1e-3, "swin": 1e-3}
TRAIN = {"derm": 32, "histo": 32, "pneumonia": 32, "adrenal": 16}
"""Images in a step."""


def rounds_of(data: str) -> int:
    """Return the rounds on a set: fewer of volumes, as each ends with a look at some hundred."""
    return int(SETS[data].get("rounds", ROUNDS))


def encoder_for(name: str, data: str = "derm") -> str:
    """Return the encoder that a method is shown with: a ResNet where it can train one.

    In volumes those that were made for a Swin transformer have one.
    """
    if name in OF_SWIN and SETS[data]["source"].get("dims") == 3:
        return "swin"
    kinds = METHODS.member(name).encoder_kinds or ENCODERS.names()
    return "resnet" if "resnet" in kinds else kinds[0]
