"""The task is to find the cavity, and no other thing.

Shapes: B images, C channels, [Z] Y X voxels (Z only in 3-D).
"""

import pytest
import torch
from torch import Tensor

from confrere_common.encoder import build_encoder
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.method import METHODS
from confrere_common.methods.resection import Resection


def build(size: tuple[int, ...] = (32, 32), **knobs: object) -> Resection:
    torch.manual_seed(0)
    named = Named(name="resnet", knobs={"width": 8, "groups": 4, "stem": "small"})
    encoder = build_encoder(named, channels=1, size=size)
    return Resection(Resection.Config(**{"width": 8, **knobs}), encoder)  # type: ignore[arg-type]


def heads(count: int, size: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lines = [torch.linspace(-1, 1, side) for side in size]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    ball = (places.square().sum(0) < 0.7).float()
    return ball * (1 + 0.2 * torch.randn(count, 1, *size, generator=generator)) - 1


def views_of(method: Resection, seed: int, count: int = 8) -> tuple[Tensor, ...]:
    images = heads(count, method.encoder.size, seed)
    generator = torch.Generator().manual_seed(seed)
    return method.views(images, lambda given, _: given, generator)


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)], ids=["2-D", "3-D"])
def test_a_perfect_mask_has_no_loss_and_its_opposite_the_most(size: tuple[int, ...]) -> None:
    method = build(size)
    views = views_of(method, 0, count=3)
    right = 200 * views[1].float() - 100

    method.segment = lambda _: right  # type: ignore[method-assign]
    best = method.losses(*views)
    method.segment = lambda _: -right  # type: ignore[method-assign]
    worst = method.losses(*views)

    assert best.tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert (worst > 0.9).all()


def test_learns_to_find_cavities_it_has_not_seen() -> None:
    method = build(volume=(5e-3, 2e-2), texture="dark")
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    fresh = views_of(method, 999, count=32)
    before = method.losses(*fresh).mean()

    for step in range(25):
        optimizer.zero_grad()
        method.losses(*views_of(method, step)).mean().backward()
        optimizer.step()

    assert method.losses(*fresh).mean() < 0.6 * before


def test_a_parcellation_may_say_where_cavities_lie() -> None:
    method, images = build(allowed="mask"), heads(8, (32, 32), 0)
    left = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64)
    left[..., :16] = 3
    left[0] = 0

    _, cavities = method.informed_views(
        images, [left], lambda one, _: one, torch.Generator().manual_seed(0)
    )

    assert method.wants == ("mask",)
    assert cavities.flatten(1).any(1).all()
    assert not cavities[1:, ..., 16:].any()


def test_knobs_reach_the_simulation() -> None:
    small, large = (views_of(build(volume=(v, v)), 0)[1] for v in (1e-3, 3e-2))

    assert large.sum() > 3 * small.sum()


def test_refuses_limits_in_the_wrong_order() -> None:
    with pytest.raises(ConfigError, match=r"limits are written \[low, high\]"):
        METHODS.configure(Named(name="resection", knobs={"volume": [0.2, 0.1]}))
