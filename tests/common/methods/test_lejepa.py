"""LeJEPA: both terms over all views, and a test of normality that knows a Gaussian."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from confrere_common.encoder import build_encoder
from confrere_common.family import Named
from confrere_common.methods.lejepa import Lejepa
from confrere_common.parts.normality import sigreg


def build(**knobs: object) -> Lejepa:
    torch.manual_seed(0)
    encoder = build_encoder(
        Named(name="resnet", knobs={"width": 8, "groups": 4}), channels=1, size=(16, 16)
    )
    small = {"hidden": 16, "out": 8, "slices": 16, "local_views": 2}
    return Lejepa(Lejepa.Config(**{**small, **knobs}), encoder)  # type: ignore[arg-type]


def views_of(lejepa: Lejepa, count: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    images = torch.randn(count, 1, 16, 16)

    def augment(given: Tensor, generator: torch.Generator) -> Tensor:
        return given + 0.1 * torch.randn(given.shape, generator=generator)

    return lejepa.views(images, augment, torch.Generator().manual_seed(seed))


def slices(width: int, count: int = 64) -> Tensor:
    return normalize(torch.randn(width, count, generator=torch.Generator().manual_seed(5)), dim=0)


def by_numpy(features: np.ndarray, directions: np.ndarray) -> float:
    """N times the weighted distance of the characteristic functions, slice by slice."""
    knots = np.linspace(0, 3, 17)
    found = []
    for direction in directions.T:
        along = features @ direction
        empirical = np.array([np.exp(1j * t * along).mean() for t in knots])
        gaussian = np.exp(-(knots**2) / 2)
        errors = np.abs(empirical - gaussian) ** 2 * gaussian
        found.append(2 * sum((errors[1:] + errors[:-1]) / 2 * np.diff(knots)))
    return float(len(features) * np.mean(found))


def test_the_statistic_is_that_of_complex_arithmetic() -> None:
    features = torch.randn(2, 7, 5, dtype=torch.float64) * 2 + 1
    directions = slices(5, 6).double()

    found = sigreg(features, directions)

    expected = np.mean([by_numpy(one, directions.numpy()) for one in features.numpy()])
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_gaussian_passes_and_all_else_does_not() -> None:
    gaussian = torch.randn(1, 512, 8, generator=torch.Generator().manual_seed(0))
    passed = float(sigreg(gaussian, slices(8)))

    refused = {
        "all alike": torch.zeros_like(gaussian),
        "too narrow": 0.3 * gaussian,
        "too wide": 3 * gaussian,
        "moved": gaussian + 1,
        "on a line": gaussian[..., :1].expand(-1, -1, 8) / 8**0.5,
        "two heaps": gaussian.sign(),
    }

    assert passed < 1.5
    worse = {kind: float(sigreg(features, slices(8))) for kind, features in refused.items()}
    assert all(value > 2 * passed for value in worse.values()), worse


@pytest.mark.parametrize("normality", [0.0, 1.0])
def test_all_views_whole_and_local_enter_both_terms(normality: float) -> None:
    lejepa = build(normality=normality)
    *shown, directions = views_of(lejepa)
    shown = [view.requires_grad_() for view in shown]

    lejepa.losses(*shown, directions).mean().backward()

    assert len(shown) == 4
    assert all(view.grad is not None and bool(view.grad.any()) for view in shown)


def test_views_enter_evenly_in_whatever_order() -> None:
    lejepa = build(normality=0.5)
    *shown, directions = views_of(lejepa)

    one, other = lejepa.losses(*shown, directions), lejepa.losses(*shown[::-1], directions)

    torch.testing.assert_close(one, other)


def test_without_normality_the_loss_is_the_spread_of_an_images_views() -> None:
    lejepa = build(normality=0.0)
    *shown, directions = views_of(lejepa)

    losses_B = lejepa.losses(*shown, directions)

    found = torch.stack([lejepa.projector(lejepa.encoder(view)) for view in shown])
    torch.testing.assert_close(losses_B, found.var(0, unbiased=False).mean(1))


def test_slices_are_unit_vectors_alike_for_all_images_and_new_at_each_step() -> None:
    lejepa = build()

    first, second = views_of(lejepa, seed=0)[-1], views_of(lejepa, seed=1)[-1]

    torch.testing.assert_close(first.norm(dim=1), torch.ones(4, 16))
    assert torch.equal(first[0], first[3])
    assert not torch.allclose(first, second)


def test_a_few_steps_make_constant_features_spread() -> None:
    lejepa = build(local_views=0)
    with torch.no_grad():
        lejepa.projector[-1].weight *= 1e-2  # type: ignore[operator]
    images = torch.randn(16, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    views = lejepa.views(images, lambda given, _: given, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(lejepa.parameters(), lr=1e-3)
    before = lejepa.projector(lejepa.encoder(images)).std(0).mean().item()

    for _ in range(30):
        optimizer.zero_grad()
        lejepa.losses(*views).mean().backward()
        optimizer.step()

    assert lejepa.projector(lejepa.encoder(images)).std(0).mean().item() > 10 * before
