"""Folders as a fine-tuning leaves them, of networks that are fresh instead of trained."""

from pathlib import Path

from confrere_common.config import Run
from confrere_common.model import (
    build_model,
    input_of,
    preprocessing_of,
    shared_weights,
    whole_encoder,
)
from confrere_common.network import ENCODER, save_network
from confrere_common.release import Card, save_release


def fresh(folder: Path, run: Run, seed: int = 0) -> Path:
    """Write what a fine-tuning leaves of its network, here as it began; return its folder."""
    weights = shared_weights(build_model(run, seed))
    channels, size = input_of(run)
    card = Card(
        encoder=run.encoder, channels=channels, size=size, training={},
        preprocessing=preprocessing_of(run), network=save_network(folder, run, weights),
    )  # fmt: skip
    save_release(folder / ENCODER, whole_encoder(run, weights), card)
    return folder
