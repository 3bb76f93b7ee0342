"""Mixings of losses do what their formulas say: FedDecorr, FedU2, FedX, Calibre, Orchestra."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tiny_run

from confrere_common.errors import ConfigError
from confrere_common.method import METHODS, imagined_views
from confrere_common.mixing import MIXINGS, Mixing, Visit
from confrere_common.mixings.calibre import gathered, spread
from confrere_common.mixings.feddecorr import correlation
from confrere_common.mixings.fedu2 import unevenness
from confrere_common.model import build_model, shared_weights
from confrere_common.parts.clusters import balanced, equal_centres, nearest
from confrere_common.parts.contrast import nt_xent, relation

IN_BATCH = ("calibre", "feddecorr", "fedu2", "fedx", "orchestra")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixing_of(name: str, round: int = 2, method: str = "byol", **knobs: Any) -> Mixing:
    run = tiny_run(method, federation={"rounds": 3, "mixing": [{"name": name, **knobs}]})
    model = build_model(run, seed=0)
    (chosen,) = run.federation.mixing
    visit = Visit(
        method=model, given=shared_weights(model), kept={}, round=round, run=run,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return MIXINGS.member(name)(MIXINGS.configure(chosen), visit)


@pytest.mark.parametrize("name", IN_BATCH)
def test_it_adds_a_finite_loss_through_which_the_encoder_learns(name: str) -> None:
    mixing = mixing_of(name)
    views = drawn(2, 6, 1, 16, 16)

    for _ in range(2):  # FedX knows others from the second step on
        losses_B = mixing.losses(torch.zeros(6), *views)

    assert losses_B.shape == (6,)
    assert bool(losses_B.isfinite().all())
    losses_B.mean().backward()
    assert any(p.grad is not None for p in mixing.visit.method.encoder.parameters())


@pytest.mark.parametrize("name", [n for n in IN_BATCH if n != "orchestra"])
def test_a_strength_of_zero_leaves_the_method_s_own_loss(name: str) -> None:
    knob = "beta" if name == "feddecorr" else "weight"

    losses_B = mixing_of(name, **{knob: 0.0}).losses(torch.arange(4.0), *drawn(2, 4, 1, 16, 16))

    assert torch.equal(losses_B, torch.arange(4.0))


@pytest.mark.parametrize("method", METHODS.names())
def test_with_any_method_it_learns_or_is_refused_before_a_round(method: str) -> None:
    plain = build_model(tiny_run(method), seed=0)
    stored = torch.randint(0, 256, (4, 1, *plain.encoder.size), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    views = imagined_views(plain, stored, lambda images, _: images.float() / 64 - 2, generator)

    for name in IN_BATCH:
        try:
            mixing = mixing_of(name, method=method)
        except ConfigError as fault:
            assert f"'{name}'" in str(fault)  # noqa: PT017  (one of two ways that are right)
        else:
            assert mixing.losses(torch.zeros(4), *views).isfinite().all()


def test_correlation_is_what_corrcoef_says() -> None:
    features_NF = drawn(20, 5) @ drawn(5, 5, seed=1)

    found = correlation(features_NF)

    corr_FF = torch.corrcoef(features_NF.T)
    due = (corr_FF.square().sum() - 5) / 25
    assert float(found) == pytest.approx(float(due), rel=1e-4)


@pytest.mark.parametrize(("features_NF", "due"), [
    (torch.ones(6, 4), 0.0),
    (torch.arange(6.0)[:, None].repeat(1, 4), 12 / 16),
    (torch.ones(1, 4), 0.0),
])  # fmt: skip
def test_correlation_of_the_extremes(features_NF: torch.Tensor, due: float) -> None:
    assert float(correlation(features_NF)) == pytest.approx(due, abs=1e-5)


def test_points_on_a_circle_are_even_and_one_point_is_as_uneven_as_can_be() -> None:
    plane_PF2 = torch.eye(2)[None]
    angles = torch.arange(360) * 2 * math.pi / 360
    even_NF = torch.stack([angles.cos(), angles.sin()], 1)

    even = unevenness(even_NF, plane_PF2)
    single = unevenness(even_NF[:1].repeat(50, 1), plane_PF2)

    assert float(even) == pytest.approx(0, abs=1e-4)
    assert float(single) == pytest.approx(1 / 12, rel=1e-2)


@given(turn=st.floats(0, 6.28), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_unevenness_does_not_change_when_the_circle_is_turned(turn: float, seed: int) -> None:
    points_NF = drawn(30, 2, seed=seed)
    turned = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])

    one, two = (unevenness(part, torch.eye(2)[None]) for part in (points_NF, points_NF @ turned))

    assert float(one) == pytest.approx(float(two), abs=2e-4)


def test_nt_xent_of_two_pairs_by_hand() -> None:
    one_BF, two_BF = torch.eye(2), torch.eye(2)

    found_B = nt_xent(one_BF, two_BF, 1.0)

    due = -math.log(math.e / (math.e + 2))
    assert found_B.tolist() == pytest.approx([due, due])


def test_relations_of_equals_are_zero_and_of_others_are_not() -> None:
    one_BF, two_BF, others_RF = drawn(4, 8), drawn(4, 8, seed=1), drawn(6, 8, seed=2)

    assert relation(one_BF, one_BF, others_RF, 0.1).abs().max() < 1e-5
    assert (relation(one_BF, two_BF, others_RF, 0.1) > 0).all()


def test_fedx_s_global_side_is_the_model_as_it_came() -> None:
    mixing: Any = mixing_of("fedx")
    views = drawn(2, 4, 1, 16, 16)
    before = mixing._global(views[1])
    with torch.no_grad():
        for parameter in mixing.visit.method.parameters():
            parameter.add_(1.0)

    after = mixing._global(views[1])

    torch.testing.assert_close(before, after)


def test_clusters_that_lie_apart_are_found_and_their_spread_is_small() -> None:
    centres_KF = 10 * torch.eye(4)
    features_NF = centres_KF.repeat(5, 1) + 0.1 * drawn(20, 4)

    cluster_N = nearest(features_NF, 8, torch.Generator().manual_seed(0))

    for kind in range(4):
        assert not set(cluster_N[kind::4].tolist()) & set(cluster_N[(kind + 1) % 4 :: 4].tolist())
    assert 0 < float(spread(features_NF, cluster_N)) < 0.05
    assert float(spread(features_NF, torch.zeros(20, dtype=torch.int64))) > 0.5


def test_prototypes_that_agree_cost_less_than_those_that_do_not() -> None:
    cluster_B = torch.tensor([0, 0, 1, 1])
    one_BF = torch.eye(2).repeat_interleave(2, 0)

    agreeing = gathered(one_BF, one_BF, cluster_B, 0.2)
    crossed = gathered(one_BF, one_BF.flip(0), cluster_B, 0.2)

    assert float(agreeing) < 0.1 < float(crossed)


@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_balanced_shares_fill_every_centre_alike(seed: int) -> None:
    likeness_NK = torch.nn.functional.normalize(drawn(24, 6, seed=seed)) @ torch.eye(6)

    share_NK = balanced(likeness_NK, rounds=300)

    torch.testing.assert_close(share_NK.sum(1), torch.ones(24))
    torch.testing.assert_close(share_NK.sum(0), torch.full((6,), 4.0), rtol=0.05, atol=0.05)


def test_centres_are_of_length_one_however_few_are_remembered() -> None:
    found_KF = equal_centres(drawn(3, 5), 4, torch.Generator().manual_seed(0))

    torch.testing.assert_close(found_KF.norm(dim=1), torch.ones(4))


def test_orchestra_sends_its_own_centres_and_leaves_the_global_ones() -> None:
    mixing = mixing_of("orchestra")
    mixing.losses(torch.zeros(6), *drawn(2, 6, 1, 16, 16))

    sent = mixing.sent({key: tensor + 1 for key, tensor in mixing.visit.given.items()})

    given_weights = mixing.visit.given
    assert torch.equal(sent["orchestra.centres"], given_weights["orchestra.centres"])
    torch.testing.assert_close(sent["orchestra.local"].norm(dim=1), torch.ones(16))


def test_orchestra_s_first_round_knows_no_centres_yet() -> None:
    views = drawn(2, 4, 1, 16, 16)

    first, later = (mixing_of("orchestra", round=r).losses(torch.zeros(4), *views) for r in (1, 2))

    assert (later > first).all()  # a cross-entropy is added
