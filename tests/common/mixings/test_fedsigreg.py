"""FedSIGReg: parts of sites add up to the pool's statistic, and alone a site does as LeJEPA does.

Shapes: V views, B images, F features, S slices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tiny_run
from torch import Tensor

from confrere_common.mixing import MIXINGS, Kept, Visit
from confrere_common.mixings.fedsigreg import COUNT, PART, POOL, SEED, Fedsigreg
from confrere_common.model import build_model, shared_weights
from confrere_common.parts.normality import apart, characteristic, sigreg
from confrere_common.secagg.fixed_point import FixedPoint, from_fixed, to_fixed
from confrere_common.secagg.section import SecureAggregation
from confrere_common.weights import Weights, subtract

WIDTH = 16
VIEWS_SLICES = torch.nn.functional.normalize(torch.randn(WIDTH, 8), dim=0)


def began(seed: int = 0) -> Weights:
    """Return what the server sends first."""
    return shared_weights(build_model(run_of(), seed))


def run_of() -> Any:
    small = {"name": "fedsigreg", "slices": 8, "memory": 4096}
    return tiny_run("lejepa", federation={"rounds": 3, "mixing": [small]})


def site(weights: Weights, kept: Kept | None = None, seed: int = 0, **knobs: Any) -> Fedsigreg:
    """Return a site's mixing, the weights having come."""
    run = run_of()
    (chosen,) = run.federation.mixing
    config = Fedsigreg.Config(**{**chosen.knobs, **knobs})
    visit = Visit(
        method=build_model(run, seed=0),
        given=weights,
        kept=kept or {},
        generator=torch.Generator().manual_seed(seed),
        round=1,
        run=run,
    )
    made = MIXINGS.member("fedsigreg")(config, visit)
    assert isinstance(made, Fedsigreg)
    return made


def drawn(images: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    shape = (2, images, WIDTH)
    return shift + scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def joined(weights: Weights, sent: Sequence[Weights], images: Sequence[int]) -> Weights:
    """Return the next weights, as rule mean gives them."""
    total = sum(images)
    deltas = [subtract(one, weights) for one in sent]
    return {
        name: weights[name] + sum(n / total * d[name] for n, d in zip(images, deltas, strict=True))
        for name in weights
    }


def after_a_round(
    features: Sequence[Tensor], weights: Weights | None = None, kepts: Mapping[int, Kept] = {}
) -> tuple[Weights, dict[int, Kept]]:
    """Return what comes next, and what each site kept, after a round with one step at each."""
    weights = weights or began()
    sites = [site(weights, kepts.get(n), seed=n) for n in range(len(features))]
    for mixing, found_VBF in zip(sites, features, strict=True):
        mixing.test(found_VBF, VIEWS_SLICES)
    sent = [mixing.sent(weights) for mixing in sites]
    images = [found_VBF.shape[1] for found_VBF in features]
    kept = {number: mixing.keep(weights) for number, mixing in enumerate(sites)}
    return joined(weights, sent, images), kept


def test_the_first_round_is_lejepa_s() -> None:
    found_VBF = drawn(6)

    value = site(began()).test(found_VBF, VIEWS_SLICES)

    torch.testing.assert_close(value, sigreg(found_VBF, VIEWS_SLICES))


def test_a_site_alone_does_as_lejepa_does_along_the_round_s_slices() -> None:
    weights, kept = after_a_round([drawn(6)])
    now_VBF = drawn(9, seed=5, scale=0.5).requires_grad_()
    alone = site(weights, kept[0])

    value = alone.test(now_VBF, VIEWS_SLICES)

    due = sigreg(now_VBF, alone._slices(WIDTH, 1))
    torch.testing.assert_close(value, due, rtol=1e-4, atol=1e-4)
    pulls = [torch.autograd.grad(one, now_VBF)[0] for one in (value, due)]
    torch.testing.assert_close(*pulls, rtol=1e-3, atol=1e-5)


@given(scale=st.floats(0.3, 3.0), others=st.integers(1, 3))
@settings(deadline=None, max_examples=8)
def test_where_all_sites_were_alike_each_does_as_lejepa_does(scale: float, others: int) -> None:
    weights, kept = after_a_round([drawn(6)] * (1 + others))
    now_VBF = drawn(7, seed=3, scale=scale)
    one = site(weights, kept[0])

    value = one.test(now_VBF, VIEWS_SLICES)

    due = sigreg(now_VBF, one._slices(WIDTH, 1))
    torch.testing.assert_close(value, due, rtol=1e-3, atol=1e-3)


@given(images=st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(deadline=None, max_examples=8)
def test_parts_of_sites_add_up_to_the_statistic_of_all_images_together(images: list[int]) -> None:
    features = [drawn(n, seed=i, scale=1 + i, shift=i / 3) for i, n in enumerate(images)]

    weights, kept = after_a_round(features)

    every_RF = torch.cat([one.flatten(0, 1) for one in features])
    slices_FS = site(weights, kept[0])._slices(WIDTH, 1)
    due = characteristic(every_RF[None], slices_FS)[0]
    torch.testing.assert_close(weights[POOL] / PART, due, rtol=1e-4, atol=1e-5)
    assert float(weights[COUNT]) == pytest.approx(PART)


@given(scale=st.sampled_from([0.0, 1.0, 1e3, 1e30]))
@settings(deadline=None, max_examples=4)
def test_whatever_the_images_no_change_is_over_what_may_go_under_masks(scale: float) -> None:
    weights, kept = after_a_round([drawn(6), drawn(4, seed=2)])
    mixing = site(weights, kept[0])

    mixing.test(drawn(5, seed=4, scale=scale), VIEWS_SLICES)

    delta = subtract(mixing.sent(weights), weights)
    assert max(float(one.abs().max()) for one in delta.values()) <= SecureAggregation().clip


def test_the_pool_arrives_through_masked_sums() -> None:
    weights = began()
    sites = [site(weights, seed=n) for n in range(3)]
    images = [40, 10, 25]
    point = FixedPoint(bits=26, clip=SecureAggregation().clip, weight_max=40)
    for number, mixing in enumerate(sites):
        mixing.test(drawn(images[number], seed=number), VIEWS_SLICES)
    deltas = [subtract(mixing.sent(weights), weights) for mixing in sites]

    chance = np.random.default_rng(0)
    fixed = [to_fixed(d, n, point, chance) for d, n in zip(deltas, images, strict=True)]
    mean, _, _ = from_fixed(np.add.reduce(fixed, dtype=np.uint32), weights, point)

    plainly = joined(weights, [mixing.sent(weights) for mixing in sites], images)
    masked = {name: weights[name] + mean[name] for name in weights}
    for name in (POOL, COUNT, SEED):
        torch.testing.assert_close(masked[name], plainly[name], rtol=0, atol=1e-6)
    assert site(masked, sites[0].keep(weights)).offset_SK2 is not None


def test_slices_are_alike_at_all_sites_of_a_round_and_others_in_the_next_and_in_another_run() -> (
    None
):
    first, kept = after_a_round([drawn(6), drawn(6, seed=1)])
    second, _ = after_a_round([drawn(6), drawn(6, seed=1)], first, kept)
    other, _ = after_a_round([drawn(6), drawn(6, seed=1)], began(seed=1))

    def slices(weights: Weights, number: int) -> Tensor:
        mixing = site(weights, kept[number], seed=number)
        return mixing._slices(WIDTH, mixing.count)

    assert torch.equal(slices(first, 0), slices(first, 1))
    assert not torch.allclose(slices(first, 0), slices(second, 0))
    assert not torch.allclose(slices(first, 0), slices(other, 0))
    torch.testing.assert_close(slices(first, 0).norm(dim=0), torch.ones(8))
    assert torch.equal(first[SEED], second[SEED])


def test_what_sites_descend_is_on_the_mean_the_pool_as_it_now_is() -> None:
    before = [drawn(30), drawn(10, seed=1, shift=1.0), drawn(20, seed=2, scale=2.0)]
    now = [drawn(30, seed=5), drawn(10, seed=6, shift=-1.0), drawn(20, seed=7)]
    weights, kept = after_a_round(before)
    sites = [site(weights, kept[number]) for number in range(3)]
    slices_FS = sites[0]._slices(WIDTH, 1)

    seen = [
        images.shape[1] / 60 * (characteristic(images, slices_FS) + mixing.offset_SK2)
        for mixing, images in zip(sites, now, strict=True)
    ]

    pool = characteristic(torch.cat(now, dim=1), slices_FS)
    torch.testing.assert_close(torch.stack(seen).sum(0), pool, rtol=1e-4, atol=1e-5)


def test_the_loss_is_how_far_the_corrected_batch_is_from_a_gaussian() -> None:
    weights, kept = after_a_round([drawn(20), drawn(20, seed=1, shift=1.0)])
    one, now_VBF = site(weights, kept[0]), drawn(5, seed=7)
    slices_FS = one._slices(WIDTH, 1)

    value = one.test(now_VBF, VIEWS_SLICES)

    own, other = (
        characteristic(part.flatten(0, 1)[None], slices_FS)
        for part in (drawn(20), drawn(20, seed=1, shift=1.0))
    )
    due = 5 * apart(characteristic(now_VBF, slices_FS) + (own + other) / 2 - own)
    torch.testing.assert_close(value, due, rtol=1e-3, atol=1e-3)


def test_a_site_whose_kinds_complete_the_others_is_let_be() -> None:
    """Two halves of a Gaussian: alone each is refused, together they pass."""
    whole = drawn(400, seed=1)
    halves = [
        torch.stack([view[view[:, 0] * side > 0][:150] for view in whole]) for side in (1.0, -1.0)
    ]

    weights, kept = after_a_round(halves)
    mixing = site(weights, kept[0])
    pooled = mixing.test(halves[0], VIEWS_SLICES)

    alone = sigreg(halves[0], mixing._slices(WIDTH, 1))
    assert float(pooled) < 0.5 * float(alone)


def test_a_pool_that_was_cut_short_is_not_used() -> None:
    weights, kept = after_a_round([drawn(6), drawn(6, seed=1)])
    short = {name: tensor.clone() for name, tensor in weights.items()}
    short[COUNT] = 0.7 * short[COUNT]
    found_VBF = drawn(5, seed=9)

    value = site(short, kept[0]).test(found_VBF, VIEWS_SLICES)

    torch.testing.assert_close(value, sigreg(found_VBF, VIEWS_SLICES))


def test_a_site_that_was_not_asked_does_as_lejepa_does() -> None:
    first, kept = after_a_round([drawn(30), drawn(30, seed=1)])
    second, _ = after_a_round([drawn(30, seed=4)], first, {0: kept[1]})
    found_VBF = drawn(5, seed=9)

    value = site(second, kept[0]).test(found_VBF, VIEWS_SLICES)

    torch.testing.assert_close(value, sigreg(found_VBF, VIEWS_SLICES))


def test_a_round_without_a_step_sends_and_forgets_nothing() -> None:
    weights, kept = after_a_round([drawn(6)])

    idle = site(weights, kept[0])

    assert idle.sent(weights) is weights
    assert idle.keep(weights) is idle.visit.kept


def test_only_the_last_features_are_remembered() -> None:
    mixing = site(began(), memory=6)

    for seed in range(3):
        mixing.test(drawn(2, seed=seed), VIEWS_SLICES)

    due_MF = torch.cat([drawn(2, seed=s).transpose(0, 1).flatten(0, 1) for s in range(3)])[-6:]
    assert mixing.remembered_MF is not None
    torch.testing.assert_close(mixing.remembered_MF, due_MF)
