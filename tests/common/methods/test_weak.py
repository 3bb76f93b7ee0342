"""Weak supervision: a known class teaches, an unknown one does not."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from confrere_common.encoder import build_encoder
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.methods.weak import Weak


def build(classes: int = 3) -> Weak:
    torch.manual_seed(0)
    knobs = {"width": 8, "groups": 4}
    encoder = build_encoder(Named(name="resnet", knobs=knobs), channels=1, size=(16, 16))
    return Weak(Weak.Config(classes=classes), encoder)


def views_of(weak: Weak, *labels: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(labels), 1, 16, 16, generator=generator)
    return weak.informed_views(images, [torch.tensor(labels)], lambda one, _: one, generator)


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    weak = build()
    images, labels = views_of(weak, 0, 2, 1)

    losses = weak.losses(images, labels)

    logits = weak.classifier(weak.encoder(images))
    torch.testing.assert_close(losses, cross_entropy(logits, labels, reduction="none"))


def test_an_image_without_a_label_has_no_loss_and_no_gradient() -> None:
    weak = build()

    losses = weak.losses(*views_of(weak, -1, -1))
    losses.sum().backward()

    assert losses.tolist() == [0, 0]
    assert not any(value.grad.any() for value in weak.parameters() if value.grad is not None)


def test_an_image_without_a_label_leaves_the_others_theirs() -> None:
    weak = build()
    images, labels = views_of(weak, 0, 1, 2)
    some = labels.clone()
    some[1] = -1

    all_known, one_unknown = weak.losses(images, labels), weak.losses(images, some)

    assert torch.equal(all_known[[0, 2]], one_unknown[[0, 2]])
    assert one_unknown[1] == 0


def test_without_facts_nothing_is_known() -> None:
    weak = build()
    images = torch.randn(2, 1, 16, 16)

    _, labels = weak.views(images, lambda one, _: one, torch.Generator())

    assert labels.tolist() == [-1, -1]


def test_a_class_that_the_run_does_not_name_is_told() -> None:
    with pytest.raises(DataError, match=r"of class 4, and the run has 3: set method.classes"):
        views_of(build(classes=3), 0, 3)


def test_it_learns_to_tell_two_kinds_of_images_apart() -> None:
    weak = build(classes=2)
    labels = torch.arange(8) % 2
    images = torch.randn(8, 1, 16, 16) * (1 + 2 * labels.float())[:, None, None, None]
    optimizer = torch.optim.Adam(weak.parameters(), lr=3e-3)

    for _ in range(20):
        optimizer.zero_grad()
        weak.losses(images, labels).mean().backward()
        optimizer.step()

    named = weak.classifier(weak.encoder(images)).argmax(1)
    assert torch.equal(named, labels)
