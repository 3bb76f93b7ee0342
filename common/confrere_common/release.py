"""An exported encoder: its weights as safetensors, and a card that says what it is and came from.

``encoder.safetensors`` holds the encoder's own tensors; ``encoder.json`` beside it holds the card:
architecture, preprocessing, training, results. Neither needs anything but this package to be read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from safetensors import SafetensorError
from safetensors.torch import load

from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.manifest import read_manifest
from confrere_common.pack import sha256, views
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights

SCHEMA = 1
"""Version of the card's keys."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What encoder.json holds."""

    encoder: Named
    channels: int
    size: tuple[int, ...]
    """Voxels along [Z] Y X."""

    preprocessing: Mapping[str, Any]
    """How pixels become the encoder's input."""

    training: Mapping[str, Any]
    """Digest, method, rounds, sites with their counts, floors and results."""


def save_release(path: Path, weights: Weights, card: Card) -> None:
    """Write ``path`` (.safetensors) and its card beside it, each atomically."""
    content = views(weights)
    plain = {
        "schema": SCHEMA,
        "sha256": sha256(content),
        "encoder": card.encoder.as_dict(),
        "input": {"channels": card.channels, "size": list(card.size)},
        "preprocessing": card.preprocessing,
        "training": card.training,
    }
    atomic_write(path, content)
    atomic_write(path.with_suffix(".json"), json.dumps(plain, indent=2).encode())


def load_release(path: Path, key: Ed25519PublicKey | None = None) -> tuple[Encoder, Card]:
    """Return the encoder, in evaluation mode, and its card.

    CheckpointError says which of the two files is missing, damaged, or does not fit the other, or
    which file of an exported release was altered since; with a *key*, also that nobody signed it.
    """
    said = read_manifest(path.parent, key)
    if said is not None and path.name not in said["files"]:
        raise CheckpointError(
            f"{path} is no part of the release that it lies in: move it elsewhere."
        )
    card, digest = _read_card(path.with_suffix(".json"))
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise CheckpointError(f"{path} cannot be read: {fault.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(
            f"{path.name} is not the file that {path.stem}.json describes: copy both again."
        )
    try:
        encoder = build_encoder(card.encoder, channels=card.channels, size=card.size)
        encoder.load_state_dict(load(content))
    except (ConfigError, SafetensorError, RuntimeError) as fault:
        raise CheckpointError(f"{path.name} does not fit its card: {fault}") from None
    return encoder.eval(), card


def _read_card(path: Path) -> tuple[Card, str]:
    try:
        plain = json.loads(path.read_bytes())
        if plain["schema"] != SCHEMA:
            raise CheckpointError(f"{path.name} has schema {plain['schema']}; this reads {SCHEMA}.")
        name = plain["encoder"]["name"]
        knobs = {key: value for key, value in plain["encoder"].items() if key != "name"}
        card = Card(
            encoder=Named(name=name, knobs=knobs),
            channels=int(plain["input"]["channels"]),
            size=tuple(int(side) for side in plain["input"]["size"]),
            preprocessing=plain["preprocessing"],
            training=plain["training"],
        )
        return card, plain["sha256"]
    except OSError as fault:
        raise CheckpointError(f"{path} cannot be read: {fault.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(f"{path} is not an encoder's card: {type(fault).__name__}.") from None
