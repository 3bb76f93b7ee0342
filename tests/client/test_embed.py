"""Image files meet an encoder as its training met images: shrunk whole, or cut from the middle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import ENCODERS, SIDE

from confrere_client.embed import load
from confrere_common.augment.pipeline import CROPPED, PREPROCESSING, normalise
from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.release import Card, save_release


@pytest.mark.parametrize("cropped", [True, False])
def test_a_picture_is_prepared_as_the_encoder_s_card_says(cropped: bool, tmp_path: Path) -> None:
    knobs = {key: value for key, value in ENCODERS["vit"].items() if key != "name"}
    named = Named(name="vit", knobs=knobs)
    encoder = build_encoder(named, channels=1, size=(SIDE, SIDE)).eval()
    card = Card(
        encoder=named, channels=1, size=(SIDE, SIDE), training={},
        preprocessing=CROPPED if cropped else PREPROCESSING,
    )  # fmt: skip
    save_release(tmp_path / "encoder.safetensors", encoder.state_dict(), card)
    picture = np.random.default_rng(0).integers(0, 256, (3 * SIDE, SIDE - 4), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")

    _, found = load(tmp_path / "encoder.safetensors", device="cpu").embed(tmp_path / "a.png")

    middle = np.pad(picture[SIDE : 2 * SIDE], ((0, 0), (2, 2)))
    with torch.inference_mode():
        due = encoder(normalise(torch.from_numpy(middle[None, None]))).numpy()
    assert np.allclose(found, due, atol=1e-5) == cropped
