"""Autoencoder and classifier in one loss: both teach the encoder, which the paper's code missed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from confrere_common.encoder import build_encoder
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.methods.joint import Joint


def build(size: tuple[int, ...] = (16, 16), channels: int = 1, **knobs: Any) -> Joint:
    torch.manual_seed(0)
    named = Named(name="resnet", knobs={"width": 8, "groups": 4})
    encoder = build_encoder(named, channels=channels, size=size)
    return Joint(Joint.Config(**{"width": 4, "classes": 3, **knobs}), encoder)


def images_of(joint: Joint, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, joint.encoder.channels, *joint.encoder.size, generator=generator) - 0.5


def encoder_gradient(joint: Joint, images: Tensor, labels: Tensor) -> Tensor:
    joint.zero_grad()
    joint.losses(images, labels).sum().backward()
    return torch.cat([value.grad.flatten() for value in joint.encoder.parameters()])  # type: ignore[union-attr]


def test_the_classes_reach_the_encoder() -> None:
    joint = build()
    images = images_of(joint)

    one, other, unknown = (
        encoder_gradient(joint, images, torch.full((4,), label)) for label in (0, 2, -1)
    )

    assert not torch.allclose(one, other)
    assert not torch.allclose(one, unknown)


def test_the_painting_reaches_the_encoder_too() -> None:
    joint = build(label_weight=0)
    images = images_of(joint)

    known, unknown = (encoder_gradient(joint, images, torch.full((4,), label)) for label in (1, -1))

    assert known.any()
    assert torch.equal(known, unknown)


def test_the_loss_is_the_sum_of_both() -> None:
    joint, alone = build(label_weight=2.0), build(label_weight=0.0)
    images, labels = images_of(joint), torch.tensor([0, 1, 2, 0])

    whole, painted = joint.losses(images, labels), alone.losses(images, labels)

    logits = joint.classifier(joint.encoder(images))
    named = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(whole, painted + 2 * named)


def test_images_painted_exactly_have_no_loss() -> None:
    joint = build()
    out: Any = joint.decoder.decoder.out
    torch.nn.init.zeros_(out.weight)
    torch.nn.init.constant_(out.bias, 0.5)

    losses = joint.losses(torch.full((2, 1, 16, 16), 0.5), torch.tensor([-1, -1]))

    assert losses.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("size", "channels"), [((16, 24), 3), ((30, 41), 1), ((9, 20, 17), 1), ((64, 64), 3)]
)
def test_paints_any_size_that_the_encoder_takes(size: tuple[int, ...], channels: int) -> None:
    joint = build(size, channels)
    images = images_of(joint, 2)

    painted = joint.decoder(joint.encoder.maps(images)[-1])

    assert painted.shape == images.shape


@pytest.mark.parametrize(("compression", "passing"), [(1, 64), (2, 32), (16, 4), (1000, 1)])
def test_only_so_many_numbers_pass(compression: float, passing: int) -> None:
    narrow: Any = build(compression=compression).decoder.narrow

    assert narrow.out_channels == passing  # a cell of the coarsest map has 8 x 8 voxels


def test_a_class_that_the_run_does_not_name_is_told() -> None:
    joint = build()

    with pytest.raises(DataError, match="of class 6, and the run has 3"):
        joint.informed_views(
            images_of(joint, 1), [torch.tensor([5])], lambda one, _: one, torch.Generator()
        )
