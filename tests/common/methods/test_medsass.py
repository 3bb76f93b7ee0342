"""Pseudo-masks are right, made of the clean image, and no copy of the network's input.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

import pytest
import torch
from torch import Tensor, nn

from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.methods.medsass import Medsass
from confrere_common.parts.otsu import objects
from confrere_common.parts.overlap import soft_dice

KNOBS = {
    "resnet": {"width": 8, "groups": 4},
    "vit": {"dim": 24, "depth": 3, "heads": 2, "patch": 8},
}


def build(
    kind: str = "resnet", size: tuple[int, ...] = (32, 32), channels: int = 1, **knobs: object
) -> Medsass:
    torch.manual_seed(0)
    encoder = build_encoder(Named(name=kind, knobs=KNOBS[kind]), channels=channels, size=size)
    return Medsass(Medsass.Config(**{"width": 8, **knobs}), encoder)  # type: ignore[arg-type]


def blobs(count: int, size: tuple[int, ...] = (32, 32), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of bright balls on dark grounds, -1 to 1, and where the balls are."""
    generator = torch.Generator().manual_seed(seed)
    lines = [torch.linspace(-1, 1, side) for side in size]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    middles = torch.rand(count, len(size), *[1] * len(size), generator=generator) - 0.5
    balls = ((places - middles).square().sum(1, keepdim=True) < 0.15).float()
    noise = 0.1 * torch.randn(balls.shape, generator=generator)
    return 1.4 * balls - 0.7 + noise, balls.bool()


def views_of(method: Medsass, images: Tensor, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return method.views(images, lambda given, _: given, generator)


@pytest.mark.parametrize("size", [(32, 32), (12, 16, 16)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("polarity", ["border", "smaller"])
@pytest.mark.parametrize("sign", [1, -1], ids=["bright", "dark"])
def test_finds_an_object_of_either_polarity(
    size: tuple[int, ...], polarity: str, sign: int
) -> None:
    images, balls = blobs(4, size)

    mask = objects(sign * images, polarity)

    assert torch.equal(mask, balls)


def test_a_named_polarity_is_kept_whatever_the_object() -> None:
    images, balls = blobs(2)

    assert torch.equal(objects(images, "bright"), balls)
    assert torch.equal(objects(images, "dark"), ~balls)


def test_the_mask_is_that_of_the_clean_image_whatever_was_drawn() -> None:
    images, balls = blobs(6)

    first, again = (views_of(build(), images, seed) for seed in (1, 2))

    assert torch.equal(first[1], balls)
    assert torch.equal(again[1], balls)
    assert not torch.equal(first[0], again[0])


def test_half_of_the_inputs_swap_dark_and_bright() -> None:
    images, balls = blobs(64)

    distorted, *_ = views_of(build(), images)

    inside = (distorted * balls).flatten(1).sum(1) / balls.flatten(1).sum(1)
    outside = (distorted * ~balls).flatten(1).sum(1) / (~balls).flatten(1).sum(1)
    assert 0.25 < (inside < outside).float().mean() < 0.75


def test_images_without_an_object_are_dropped_and_counted() -> None:
    images, _ = blobs(3)
    speck = torch.full((1, 1, 32, 32), -1.0)
    speck[..., 3, 3] = 1.0
    method = build()

    views = views_of(method, torch.cat([images, torch.zeros(1, 1, 32, 32), speck]))
    losses = method.losses(*views)
    losses[3:].sum().backward()

    assert (losses == 0).tolist() == [False, False, False, True, True]
    assert method.told(*views)["dropped"] == pytest.approx(2 / 5)
    assert not any(p.grad.any() for p in method.parameters() if p.grad is not None)


def test_exact_segmentation_has_no_loss() -> None:
    method = build()
    images, balls = blobs(2)
    method.segment = lambda _: 200 * balls.float() - 100  # type: ignore[method-assign]

    assert method.losses(*views_of(method, images)).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("network", ["decoder", "encoder"])
@pytest.mark.parametrize("kind", KNOBS)
def test_trains_end_to_end_or_the_encoder_alone(kind: str, network: str) -> None:
    method = build(kind, network=network)

    method.losses(*views_of(method, blobs(2)[0])).sum().backward()

    own = sum(p.numel() for p in method.decoder.parameters())
    assert (own > 1000) == (network == "decoder")
    assert all(p.grad is not None for p in method.encoder.parameters())


class Pixelwise(nn.Module):
    """A network of 1 x 1 convolutions, which see one voxel each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 32, 1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, images_BCZYX: Tensor) -> Tensor:
        logits: Tensor = self.layers(images_BCZYX)
        return logits


def trained_dice(method: Medsass, own: nn.Module, steps: int) -> float:
    """Train *own* on fresh views and return its Dice on others."""
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        method.losses(*views_of(method, blobs(8, seed=step)[0], seed=step)).mean().backward()
        optimizer.step()
    images, masks, _ = views_of(method, blobs(48, seed=999)[0], seed=999)
    with torch.no_grad():
        guesses = (method.segment(images) > 0).float()
    return float(1 - soft_dice(guesses, masks.float()).mean())


def test_what_sees_one_voxel_does_clearly_worse_than_a_network() -> None:
    unet, pixelwise = build(), build()
    own = Pixelwise()
    pixelwise.segment = own.forward  # type: ignore[method-assign]

    seen = trained_dice(unet, unet, steps=50)
    copied = trained_dice(pixelwise, own, steps=100)

    assert seen > copied + 0.2


def test_without_distortion_one_voxel_would_be_enough() -> None:
    pixelwise = build(strength=0.0, inverted=0.0)
    own = Pixelwise()
    pixelwise.segment = own.forward  # type: ignore[method-assign]

    assert trained_dice(pixelwise, own, steps=60) > 0.9


def test_thresholds_the_channel_that_is_asked_for() -> None:
    images, balls = blobs(2)
    colours = torch.cat([torch.randn_like(images), images], dim=1)

    _, mask, _ = views_of(build(channels=2, channel=1), colours)

    assert torch.equal(mask, balls)


def test_refuses_a_channel_that_images_do_not_have() -> None:
    with pytest.raises(ConfigError, match=r"channel is 3, but images have 1 channel"):
        build(channel=3)
