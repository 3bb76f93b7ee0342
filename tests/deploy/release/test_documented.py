"""Every block of Python in docs/releases.md runs, one by itself, and gives features."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from confrere_client.ingest.prepare import Order, prepare
from confrere_common.augment.pipeline import PREPROCESSING
from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.release import Card, save_release
from confrere_deploy.release.export import Wishes, export

PAGE = Path(__file__).parents[3] / "docs" / "releases.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SIZE = (32, 32)

THEIR_WARNINGS = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:NvImgCodec:UserWarning"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a release and a picture in it, as the page takes for granted."""
    folder = tmp_path_factory.mktemp("documented")
    named = Named(name="vit", knobs={"dim": 24, "depth": 1, "heads": 2, "patch": 8})
    card = Card(encoder=named, channels=3, size=SIZE, preprocessing=PREPROCESSING, training={})
    encoder = build_encoder(named, channels=3, size=SIZE)
    save_release(folder / "run" / "encoder.safetensors", encoder.state_dict(), card)
    key = Ed25519PrivateKey.generate()
    export(folder / "run", folder / "release", key, Wishes(formats=("torch",)))
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(folder / "image.png")
    _volumes(folder, key)
    return folder


def _volumes(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write a release of an encoder of volumes, and a prepared data set of four."""
    named, size = Named(name="swin", knobs={"dim": 12, "heads": 3}), (32, 32, 32)
    card = Card(encoder=named, channels=1, size=size, preprocessing=PREPROCESSING, training={})
    encoder = build_encoder(named, channels=1, size=size)
    save_release(folder / "run-3d/encoder.safetensors", encoder.state_dict(), card)
    export(folder / "run-3d", folder / "release-3d", key, Wishes())
    noise = np.random.default_rng(0).integers(0, 255, (4, 9, 8, 7, 1), np.uint8)
    (folder / "in").mkdir()
    np.savez(folder / "in/v.npz", dims=3, train_images=noise)
    prepare(Order(sources=(folder / "in",), dataset=folder / "set"))


@pytest.fixture(autouse=True)
def _rearranging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in what MONAI asks of einops, which it does not bring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr

    def rearrange(images: torch.Tensor, pattern: str) -> torch.Tensor:
        last = pattern.endswith(" c")
        return images.movedim(1, -1) if last else images.movedim(-1, 1)

    monkeypatch.setattr(swin_unetr, "rearrange", rearrange)


def ran(block: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102  (our own page)
    return names


@THEIR_WARNINGS
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_and_gives_what_it_says(
    block: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ran(block, place, monkeypatch)

    found = names.get("features", names.get("logits"))
    assert found is not None
    assert torch.isfinite(torch.as_tensor(found)).all()
    assert found.shape in {(4, 24), (1, 24), (4, 2), (4, 192), (1, 2, 64, 64, 64)}
    lines = [
        line for line in block.splitlines() if line and not line.startswith(("from", "import"))
    ]
    assert len(lines) <= 5


@THEIR_WARNINGS
def test_monai_sees_the_picture_as_confrere_does(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [block for block in BLOCKS if "monai import" in block]

    names = ran(block, place, monkeypatch)

    _, due = names["load"]("release/encoder.safetensors", device="cpu").embed("image.png")
    assert np.allclose(names["features"].detach().numpy(), due, atol=1e-4)
