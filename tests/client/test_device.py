"""How much is computed at once: large volumes go through an encoder in parts."""

import pytest
import torch
from tiny_runs import ENCODERS

from confrere_client import device
from confrere_common.encoder import Encoder, build_encoder
from confrere_common.family import Named


def encoder(size: tuple[int, ...]) -> Encoder:
    knobs = {key: value for key, value in ENCODERS["resnet"].items() if key != "name"}
    torch.manual_seed(0)
    return build_encoder(Named(name="resnet", knobs=knobs), channels=1, size=size).eval()


@pytest.mark.parametrize(("size", "images"), [((224, 224), 167), ((96,) * 3, 9), ((512,) * 3, 1)])
def test_fewer_large_images_are_seen_at_once(size: tuple[int, ...], images: int) -> None:
    assert device.at_once(size) == images


@torch.no_grad()
def test_parts_come_to_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    made, volumes = encoder((16, 16, 16)), torch.randn(5, 1, 16, 16, 16)
    seen: list[int] = []
    made.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    whole = made(volumes)

    monkeypatch.setattr(device, "VOXELS", 2 * 16**3)
    found = device.in_parts(made, volumes)

    assert seen == [5, 2, 2, 1]
    assert torch.allclose(found, whole, atol=1e-5)
