"""Autoencoder: what passes to the decoder, and what comes back."""

import pytest
import torch
from blobs import SIDE, blobs, train

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.autoencoder import Autoencoder

KNOBS = {
    "resnet": {"width": 8, "groups": 4},
    "vit": {"dim": 48, "depth": 2, "heads": 2, "patch": 8},
}


def build(
    kind: str = "resnet", size: tuple[int, ...] = (SIDE, SIDE), channels: int = 1, **knobs: float
) -> Autoencoder:
    torch.manual_seed(0)
    encoder = build_encoder(Named(name=kind, knobs=KNOBS[kind]), channels=channels, size=size)
    return Autoencoder(Autoencoder.Config(**{"width": 4, **knobs}), encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "compression", "channels"),
    [("vit", 2.0, 32), ("vit", 64.0, 1), ("vit", 1.0, 48), ("resnet", 2.0, 32)],
)
def test_as_many_numbers_pass_as_the_compression_leaves(
    kind: str, compression: float, channels: int
) -> None:
    autoencoder = build(kind, compression=compression)

    coarsest = autoencoder.encoder.maps(torch.randn(2, 1, SIDE, SIDE))[-1]
    code = autoencoder.decoder.passing(coarsest)

    assert code.shape == (2, channels, 4, 4)


def test_loss_is_the_mean_squared_error_of_what_comes_back() -> None:
    autoencoder = build(channels=3)
    images = torch.randn(2, 3, SIDE, SIDE)

    losses_B = autoencoder.losses(images)

    expected = [(autoencoder.paint(one[None])[0] - one).square().mean() for one in images]
    torch.testing.assert_close(losses_B, torch.stack(expected))


def test_only_the_narrow_map_reaches_the_decoder() -> None:
    autoencoder = build()
    torch.nn.init.zeros_(autoencoder.decoder.narrow.weight)

    one, two = autoencoder.paint(torch.randn(2, 1, SIDE, SIDE))

    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("resnet", (30, 41)), ("resnet", (9, 20, 17)), ("vit", (16, 24, 16)), ("resnet", (64, 64))],
)
def test_paints_any_size_that_the_encoder_takes(kind: str, size: tuple[int, ...]) -> None:
    images = torch.randn(2, 1, *size)

    assert build(kind, size).paint(images).shape == images.shape


@pytest.mark.parametrize("kind", KNOBS)
def test_a_few_dozen_steps_beat_the_mean_image(kind: str) -> None:
    autoencoder = build(kind)
    held = blobs(32, seed=1).float() / 64 - 2
    mean = float((held - held.mean(0)).square().mean())

    train(autoencoder, 60, lr=5e-3)

    assert float(autoencoder.losses(held).mean().detach()) < mean
