"""The mean of the matrices that tensor trains stand for, as a tensor train. https://doi.org/10.1137/090752286.

Cores of two sites have no mean: a product of means is no mean of products, and between two cores
any matrix may stand beside its inverse without a change of the layer. So each update's cores are
multiplied out, the matrices are averaged, and TT-SVD makes cores of the result; the error is that
of cutting the mean to the rank, and none where the rank is full. All other weights are averaged.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from confrere_common.exchange import Update
from confrere_common.family import NoKnobs
from confrere_common.parts.tensor_train import CORES, aligned, contract, decompose
from confrere_common.weights import Weights
from confrere_server.folding import fold, must_be_float
from confrere_server.rule import rule

MATRIX = CORES + "contracted"
"""Behind a layer's name: its matrix, in the place of one more core."""

NEAR = 1e-6
"""Relative distance up to which the mean of the cores stands for the mean of the matrices."""


@rule(sum_only=False, by_images=True, sees_weights=True)
def tensor_train(updates: Iterable[Update], config: NoKnobs, weights: Weights) -> Weights:  # noqa: ARG001
    """Return what leads to the image-weighted mean of dense layers, cut to the chains' ranks.

    Where the mean of the cores stands for that matrix as it is (one update, equal updates, a
    single core that differs), it is taken. One pass, memory of one dense model beside the update
    read. RoundError if no update counts.
    """
    layers = _layers(weights)
    joined = dict(fold(_with_matrices(updates, layers, weights), lambda update: update.images))
    for layer, names in layers.items():
        if f"{layer}{MATRIX}" not in joined:
            continue
        change_MN = joined.pop(f"{layer}{MATRIX}").double()
        old = [weights[name].double() for name in names]
        means = [core + joined[name].double() for core, name in zip(old, names, strict=True)]
        found = _cores(contract(old) + change_MN, means)
        if found is not None:
            changes = zip(names, found, old, strict=True)
            joined |= {name: (new - core).float() for name, new, core in changes}
    return joined


def _layers(weights: Weights) -> Mapping[str, list[str]]:
    """Return layer -> names of its cores, in their order."""
    found: dict[str, list[str]] = {}
    for name in weights:
        layer, cores, number = name.rpartition(CORES)
        if cores and number.isdecimal():
            found.setdefault(layer, []).append(name)
    return {layer: sorted(names, key=_number) for layer, names in found.items()}


def _number(name: str) -> int:
    return int(name.rpartition(CORES)[2])


def _with_matrices(
    updates: Iterable[Update], layers: Mapping[str, list[str]], weights: Weights
) -> Iterator[Update]:
    """Yield updates that hold the change of each layer's matrix beside those of its cores."""
    for update in updates:
        must_be_float(update)
        changes = {
            f"{layer}{MATRIX}": _change(names, weights, update.delta)
            for layer, names in layers.items()
            if names[0] in update.delta
        }
        update = replace(update, delta={**update.delta, **changes})
        del changes
        yield update
        del update  # while the next is made, this one must be gone


def _change(names: list[str], weights: Weights, delta: Weights) -> Tensor:
    old = [weights[name].double() for name in names]
    new = [core + delta[name].double() for core, name in zip(old, names, strict=True)]
    return (contract(new) - contract(old)).float()


def _cores(mean_MN: Tensor, means: list[Tensor]) -> list[Tensor] | None:
    """Return cores of the matrix, near to *means*; None where those stand for it already."""
    if not bool(torch.isfinite(mean_MN).all()):  # the sum overflowed: whoever steps will see it
        return None
    if float((contract(means) - mean_MN).norm()) <= NEAR * float(mean_MN.norm()):
        return None
    rows, columns = [core.shape[1] for core in means], [core.shape[2] for core in means]
    rank = max(core.shape[3] for core in means)
    found = aligned(decompose(mean_MN, rows, columns, rank), means)
    return found if all(bool(torch.isfinite(core).all()) for core in found) else None
