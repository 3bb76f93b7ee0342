"""The decoder brings any encoder's maps to the input's size, each image alone."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from confrere_common.encoder import ENCODERS, Encoder, build_encoder
from confrere_common.family import Named
from confrere_common.parts.decoder import Decoder, Sides

TINY: Mapping[str, Mapping[str, Any]] = {
    "resnet": {"width": 8, "groups": 4},
    "swin": {"dim": 8, "depths": (1, 1, 1)},
    "vit": {"dim": 24, "depth": 3, "heads": 2, "patch": 4},
}
SIZES = [(32, 32), (24, 40), (16, 16, 16)]
RATES = {"resnet": 5e-3}
KINDS = [Decoder, Sides]


def tiny(kind: str, size: tuple[int, ...]) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(Named(name=kind, knobs=TINY.get(kind, {})), channels=1, size=size)


class Network(nn.Module):
    """An encoder with what makes logits of its maps."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images_BCZYX: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder.maps(images_BCZYX))
        return logits


def network(kind: str, size: tuple[int, ...], head: type = Decoder, classes: int = 2) -> Network:
    encoder = tiny(kind, size)
    return Network(
        encoder, head(encoder, classes, 4) if head is Decoder else head(encoder, classes)
    )


@pytest.mark.parametrize("head", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ENCODERS.names())
def test_gives_logits_of_each_class_at_the_input_s_size(
    kind: str, size: tuple[int, ...], head: type
) -> None:
    model = network(kind, size, head, classes=3)

    logits = model(torch.randn(2, 1, *size))

    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(31, 45), (9, 20, 17), (64, 64)], ids=str)
def test_takes_every_size_that_a_convolutional_encoder_takes(size: tuple[int, ...]) -> None:
    assert network("resnet", size)(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("head", KINDS)
@pytest.mark.parametrize("kind", ENCODERS.names())
def test_a_gradient_reaches_every_parameter_of_encoder_and_decoder(kind: str, head: type) -> None:
    model = network(kind, (32, 32), head)

    model(torch.randn(2, 1, 32, 32)).square().sum().backward()

    still = [
        name
        for name, value in model.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert still == []


@pytest.mark.parametrize("size", SIZES[1:], ids=["2-D", "3-D"])
def test_an_image_s_logits_hang_on_no_other_image(size: tuple[int, ...]) -> None:
    model = network("resnet", size)
    images = torch.randn(3, 1, *size)
    changed = torch.cat([images[:1], 9 * images[1:] + 1])

    torch.testing.assert_close(model(images)[0], model(changed)[0])


def test_gradients_of_single_images_can_be_mapped() -> None:
    model = network("vit", (16, 16))
    images = torch.randn(2, 1, 16, 16)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, weights, (image[None],))
        return logits.square().mean()

    weights = {name: value.detach() for name, value in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        mapped = vmap(grad(loss), in_dims=(None, 0))(weights, images)

    model(images[:1]).square().mean().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(mapped[name][0], value.grad, rtol=1e-3, atol=1e-5)


class Depths(Encoder):
    """Maps of one stride, as a plain transformer's depths are."""

    def __init__(self, stride: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size, self.width = 1, size, 6
        self.map_channels, self.map_strides = (6, 6, 6), (stride,) * 3
        self.layers = nn.ModuleList(nn.Conv2d(1, 6, stride, stride) for _ in range(3))

    def maps(self, images_BCZYX: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(images_BCZYX) for layer in self.layers)

    def pool(self, map_BCZYX: Tensor) -> Tensor:
        return map_BCZYX.flatten(2).mean(2)


@pytest.mark.parametrize("stride", [1, 4, 6, 8])
def test_maps_of_one_stride_are_joined_and_enlarged(stride: int) -> None:
    encoder = Depths(stride, (24, 24))

    logits = Network(encoder, Decoder(encoder, 2, width=4))(torch.randn(2, 1, 24, 24))

    assert logits.shape == (2, 2, 24, 24)


@pytest.mark.parametrize("kind", ENCODERS.names())
def test_learns_where_things_lie_in_a_few_steps(kind: str) -> None:
    model = network(kind, (32, 32), classes=1)
    masks = torch.zeros(4, 1, 32, 32)
    for place in range(4):
        masks[place, :, 4 * place : 4 * place + 12, 16 - 4 * place : 28 - 4 * place] = 1
    images = masks + 0.3 * torch.randn(masks.shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES.get(kind, 2e-3))
    criterion = nn.BCEWithLogitsLoss()

    for _ in range(25):
        optimizer.zero_grad()
        criterion(model(images), masks).backward()
        optimizer.step()

    hit = (model(images) > 0) == (masks > 0.5)
    assert hit.float().mean() > 0.9
