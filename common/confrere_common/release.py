"""An exported encoder: its weights as safetensors, and a card that says what it is and came from.

``encoder.safetensors`` holds the encoder's own tensors; ``encoder.json`` beside it holds the card:
architecture, preprocessing, training, results. Neither needs anything but this package to be read.
Where training made a U-Net's way up as well, ``decoder.safetensors`` holds that. What a fine-tuning
leaves beside them, ``network`` reads.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from confrere_common.encoder import Encoder, build_encoder
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.family import Named
from confrere_common.manifest import read_manifest
from confrere_common.pack import sha256, views
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights

SCHEMA = 1
"""Version of the card's keys."""

DECODER = "decoder.safetensors"
"""What a segmentation may start from beside encoder.safetensors, whose card holds its digest."""


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

    decoder: str | None = None
    """SHA-256 of the decoder beside it; ``save_release`` fills it in."""

    network: Mapping[str, str] = field(default_factory=dict)
    """File of the fine-tuned network beside it -> SHA-256 (``network.save_network``)."""


def save_release(
    path: Path, weights: Weights, card: Card, decoder: Weights | None = None
) -> tuple[str, ...]:
    """Write ``path`` (.safetensors), its decoder if it has one, and its card, each atomically.

    Return the names of the files.
    """
    content, beside = views(weights), _beside(path)
    way_up = views(decoder) if decoder else None
    if way_up is not None:
        atomic_write(beside, way_up)
    plain = {
        "schema": SCHEMA,
        "sha256": sha256(content),
        "encoder": card.encoder.as_dict(),
        "input": {"channels": card.channels, "size": list(card.size)},
        "preprocessing": card.preprocessing,
        "training": card.training,
    }
    if way_up is not None:
        plain["decoder"] = {"sha256": sha256(way_up)}
    if card.network:
        plain["network"] = dict(card.network)
    atomic_write(path, content)
    atomic_write(path.with_suffix(".json"), json.dumps(plain, indent=2).encode())
    if way_up is None:
        beside.unlink(missing_ok=True)  # of an older run in the same place
    return (path.name, path.with_suffix(".json").name, *([beside.name] if way_up else []))


def _beside(path: Path) -> Path:
    """Return where the decoder of the encoder at *path* lies: several may share a folder."""
    return path.with_name(DECODER if path.stem == "encoder" else f"{path.stem}.{DECODER}")


def _decoder_of(path: Path) -> Path:
    """Return where it is, also where only the encoder and its card were called otherwise."""
    own = _beside(path)
    return own if own.exists() else path.with_name(DECODER)


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


def load_decoder(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the way up that was trained with the encoder at *path*, and its file's SHA-256.

    Nothing and None where there is none.

    CheckpointError when it is missing, damaged, or not the one that the encoder's card names.
    """
    card, _ = _read_card(path.with_suffix(".json"))
    if card.decoder is None:
        return {}, None
    beside = _decoder_of(path)
    try:
        content = beside.read_bytes()
    except OSError as fault:
        raise CheckpointError(
            f"{beside} cannot be read: {fault.strerror}. It belongs to {path.name}: copy all three "
            "files again, or start from the encoder alone (finetune.start_decoder: false)."
        ) from None
    if hashlib.sha256(content).hexdigest() != card.decoder:
        raise CheckpointError(
            f"{beside.name} is not the file that {path.stem}.json describes: copy all three again."
        )
    try:
        return load(content), card.decoder
    except SafetensorError as fault:
        raise CheckpointError(f"{beside.name} holds no tensors: {fault}") from None


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
            decoder=plain["decoder"]["sha256"] if "decoder" in plain else None,
            network={str(file): str(due) for file, due in plain.get("network", {}).items()},
        )
        return card, plain["sha256"]
    except OSError as fault:
        raise CheckpointError(f"{path} cannot be read: {fault.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(f"{path} is not an encoder's card: {type(fault).__name__}.") from None
