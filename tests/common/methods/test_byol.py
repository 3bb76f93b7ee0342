"""BYOL: what is foretold, and how the teacher follows."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.byol import Byol


def build(momentum: float = 0.99) -> Byol:
    torch.manual_seed(0)
    encoder = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=(16, 16)
    )
    return Byol(Byol.Config(hidden=32, out=16, momentum=momentum), encoder)


def student_of(byol: Byol) -> list[Tensor]:
    return [*byol.encoder.parameters(), *byol.projector.parameters()]


def shake(byol: Byol) -> None:
    with torch.no_grad():
        for value in student_of(byol):
            value += torch.randn_like(value)


def test_the_teacher_starts_as_a_copy_of_the_student_that_shares_no_memory() -> None:
    byol = build()

    for taught, own in zip(byol.teacher.parameters(), student_of(byol), strict=True):
        assert torch.equal(taught, own)
        assert taught.data_ptr() != own.data_ptr()
        assert not taught.requires_grad


def test_loss_is_the_squared_distance_of_unit_vectors_both_ways() -> None:
    byol = build()
    shake(byol)
    one, two = torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16)

    losses_B = byol.losses(one, two)

    guess_one, guess_two = (
        normalize(byol.predictor(byol.projector(byol.encoder(view)))) for view in (one, two)
    )
    target_one, target_two = (normalize(byol.teacher(view)) for view in (one, two))
    expected = (guess_one - target_two).square().sum(1) + (guess_two - target_one).square().sum(1)
    torch.testing.assert_close(losses_B, expected)


@pytest.mark.parametrize(("sign", "loss"), [(1.0, 0.0), (-1.0, 8.0)])
def test_loss_is_0_for_exact_foresight_and_8_for_its_opposite(sign: float, loss: float) -> None:
    byol = build()
    byol.predictor = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
    byol.predictor[0].weight.data = sign * torch.eye(16)
    view = torch.randn(3, 1, 16, 16)

    torch.testing.assert_close(byol.losses(view, view), torch.full((3,), loss))


def test_images_start_apart_although_an_untrained_encoder_sees_them_nearly_alike() -> None:
    byol = build()
    images = torch.randn(32, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)

    seen = byol.encoder(images)
    projected = byol.projector(seen)

    assert _likeness(seen) > 0.8
    assert _likeness(projected) < 0.3


def _likeness(features_BF: Tensor) -> float:
    """The mean cosine between different images."""
    unit_BF = normalize(features_BF)
    return float((unit_BF @ unit_BF.T).triu(1).sum().detach()) * 2 / (32 * 31)


def test_no_gradient_reaches_the_teacher() -> None:
    byol = build()

    byol.losses(torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)).sum().backward()

    assert all(value.grad is None for value in byol.teacher.parameters())


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 1.0])
def test_the_teacher_follows_with_the_papers_momentum(progress: float) -> None:
    byol = build(momentum=0.9)
    before = [value.clone() for value in byol.teacher.parameters()]
    shake(byol)

    byol.after_step(progress)

    kept = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
    for then, now, own in zip(before, byol.teacher.parameters(), student_of(byol), strict=True):
        torch.testing.assert_close(now, kept * then + (1 - kept) * own)


def test_a_site_that_joins_starts_its_teacher_from_what_it_received() -> None:
    byol = build()
    shake(byol)

    byol.start_local()

    for taught, own in zip(byol.teacher.parameters(), student_of(byol), strict=True):
        assert torch.equal(taught, own)
        assert not taught.requires_grad


def test_the_teacher_alone_stays_at_the_site() -> None:
    byol = build()

    kept = {name.split(".")[0] for name in byol.state_dict() if not byol.is_shared(name)}

    assert kept == {"teacher"}
