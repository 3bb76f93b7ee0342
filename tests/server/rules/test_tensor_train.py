"""Joining tensor trains: matrices are averaged, not cores, and cores come out again."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_common.parts.tensor_train import contract, decompose, parameters, ranks
from confrere_common.weights import Weights, add, subtract
from confrere_server.rule import RULES

ROWS, COLUMNS = (2, 3, 4), (3, 2, 4)
FULL = math.prod(ROWS) * math.prod(COLUMNS)
LAYER = "encoder.blocks.0.attended"


def random(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cores_of(seed: int, rank: int) -> Weights:
    matrix = random((24, 24), seed)
    return named(decompose(matrix, ROWS, COLUMNS, rank))


def named(cores: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{LAYER}.cores.{k}": core.float() for k, core in enumerate(cores)}


def matrix_of(weights: Weights) -> Tensor:
    return contract([weights[f"{LAYER}.cores.{k}"].double() for k in range(3)])


def trained(weights: Weights, seed: int, strength: float) -> dict[str, Tensor]:
    return {
        name: core + strength * random(core.shape, seed + k).float()
        for k, (name, core) in enumerate(weights.items())
    }


def joined(weights: Weights, sites: Sequence[tuple[Weights, int]], rule: str) -> Weights:
    updates = [
        Update(site=f"s{k}", round=1, delta=subtract(site, weights), images=images)
        for k, (site, images) in enumerate(sites)
    ]
    return add(weights, RULES.member(rule)(iter(updates), NoKnobs(), weights))


def test_at_full_rank_it_is_the_plain_mean_of_dense_layers() -> None:
    start = cores_of(0, FULL)
    sites = [(trained(start, seed, 0.3), images) for seed, images in ((1, 10), (20, 30))]

    found = matrix_of(joined(start, sites, "tensor_train"))

    dense = (10 * matrix_of(sites[0][0]) + 30 * matrix_of(sites[1][0])) / 40
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-4)


def test_the_mean_of_cores_is_another_matrix() -> None:
    start = cores_of(0, FULL)
    sites = [(trained(start, seed, 0.3), images) for seed, images in ((1, 10), (20, 30))]

    found = matrix_of(joined(start, sites, "mean"))

    dense = (10 * matrix_of(sites[0][0]) + 30 * matrix_of(sites[1][0])) / 40
    assert (found - dense).norm() > 0.1 * (dense - matrix_of(start)).norm()


def test_sites_that_hold_one_matrix_in_two_gauges_agree() -> None:
    start = cores_of(0, 4)
    turn = random((4, 4), 5).float()
    one, two, three = start.values()
    gauged = named(
        [torch.tensordot(one, turn, dims=1), torch.tensordot(turn.inverse(), two, dims=1), three]
    )

    ours = joined(start, [(start, 1), (gauged, 1)], "tensor_train")
    plain = joined(start, [(start, 1), (gauged, 1)], "mean")

    whole = matrix_of(start)
    torch.testing.assert_close(matrix_of(ours), whole, rtol=1e-3, atol=1e-3)
    assert (matrix_of(plain) - whole).norm() > 0.2 * whole.norm()


def test_below_full_rank_it_is_as_near_to_the_mean_as_its_own_decomposition() -> None:
    start = cores_of(0, 3)
    sites = [(trained(start, seed, 0.3), 1) for seed in (1, 20, 40)]
    dense = torch.stack([matrix_of(site) for site, _ in sites]).mean(0)

    found = matrix_of(joined(start, sites, "tensor_train"))

    best = contract(decompose(dense, ROWS, COLUMNS, 3))
    torch.testing.assert_close((found - dense).norm(), (best - dense).norm(), rtol=1e-3, atol=1e-4)
    assert (matrix_of(joined(start, sites, "mean")) - dense).norm() > (found - dense).norm()


def test_cores_keep_their_shapes_and_their_number() -> None:
    start = cores_of(0, 3)
    sites = [(trained(start, seed, 0.3), 1) for seed in (1, 20)]

    found = joined(start, sites, "tensor_train")

    assert {name: core.shape for name, core in found.items()} == {
        name: core.shape for name, core in start.items()
    }
    assert sum(core.numel() for core in found.values()) == parameters(ROWS, COLUMNS, 3)
    assert max(ranks(ROWS, COLUMNS, 3)) == 3


def test_where_one_core_differs_the_mean_of_cores_is_right_and_taken_as_it_is() -> None:
    start = cores_of(0, 3)
    name = f"{LAYER}.cores.1"
    sites = [({**start, name: start[name] + shift}, 1) for shift in (0.5, -0.25)]

    ours, plain = (joined(start, sites, rule) for rule in ("tensor_train", "mean"))

    assert all(torch.equal(ours[key], plain[key]) for key in start)


def test_small_steps_change_cores_little() -> None:
    """So that an optimizer's momenta at a site still mean what they meant."""
    start = cores_of(0, 3)
    sites = [(trained(start, seed, 0.01), 1) for seed in (1, 20)]

    ours, plain = (joined(start, sites, rule) for rule in ("tensor_train", "mean"))

    for name, core in start.items():
        assert (ours[name] - core).norm() < 3 * (plain[name] - core).norm()


def test_other_weights_are_averaged_and_other_layers_left_alone() -> None:
    start = {**cores_of(0, 3), "encoder.norm.weight": torch.ones(3)}
    one = {**start, "encoder.norm.weight": torch.full((3,), 2.0)}
    two = {**start, "encoder.norm.weight": torch.full((3,), 5.0)}

    found = joined(start, [(one, 10), (two, 20)], "tensor_train")

    torch.testing.assert_close(found["encoder.norm.weight"], torch.full((3,), 4.0))
    assert all(torch.equal(found[name], start[name]) for name in start if ".cores." in name)
    assert found.keys() == start.keys()


def test_a_sum_beyond_all_numbers_is_left_to_whoever_steps() -> None:
    start = cores_of(0, 3)
    far = {name: core + 1e30 for name, core in start.items()}

    found = joined(start, [(far, 1), (start, 1)], "tensor_train")

    assert found.keys() == start.keys()
