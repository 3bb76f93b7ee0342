"""Tensor-train layers: a large matrix as a chain of small cores. https://arxiv.org/abs/1509.06569.

With rows i = (i1, ..., id) and columns j = (j1, ..., jd), W[i, j] = G1[i1, j1] G2[i2, j2] ...
Gd[id, jd], a product of matrices; core Gk has shape (r(k-1), mk, nk, rk) and r0 = rd = 1, so that
sum mk nk r(k-1) rk numbers stand for prod mk * prod nk. A convolution's kernel is the matrix of its
output channels against kernel places and input channels, the places a mode of their own as in
https://arxiv.org/abs/1611.03214.

A layer multiplies its cores out and computes as the plain layer would: it saves parameters and
bytes on the wire, not the time of a step. Cores of two sites have no mean (see rule
``tensor_train``).

Shapes: M rows, N columns; a core is RMNR.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from confrere_common.section import section

CORES = ".cores."
"""What stands between a layer's name and a core's number in the name of its weight."""


@section
class TensorTrain:
    """How large layers of an encoder are held; those that it would not make smaller stay dense."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Largest inner size of a chain. A high one gives back the dense layer at a higher price."""

    cores: Annotated[int, Field(ge=2, le=6)] = 3
    """Cores of a matrix; a convolution has one more, for the places of its kernel."""


# ------------------------------------------------------------------------------ arithmetic


def factors(size: int, count: int) -> tuple[int, ...]:
    """Return *count* factors of *size*, as near to each other as its primes allow, smallest first.

    2048 in 4 is (4, 8, 8, 8); a prime is (1, ..., 1, itself).
    """
    found = [1] * count
    for prime in reversed(_primes(size)):
        found[found.index(min(found))] *= prime
    return tuple(sorted(found))


def ranks(rows: Sequence[int], columns: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return r0 to rd: *rank*, but no more than the chain to the left or to the right can use."""
    sides = [m * n for m, n in zip(rows, columns, strict=True)]
    bonds = range(len(sides) + 1)
    return tuple(min(rank, math.prod(sides[:bond]), math.prod(sides[bond:])) for bond in bonds)


def parameters(rows: Sequence[int], columns: Sequence[int], rank: int) -> int:
    """Return how many numbers the cores hold: the sum of mk nk r(k-1) rk."""
    inner = ranks(rows, columns, rank)
    each = zip(rows, columns, inner, inner[1:], strict=False)
    return sum(m * n * left * right for m, n, left, right in each)


def contract(cores: Sequence[Tensor]) -> Tensor:
    """Return the matrix MN that the cores stand for."""
    first, *rest = cores
    chain_MNR = first[0]
    for core_RMNR in rest:
        joined = torch.tensordot(chain_MNR, core_RMNR, dims=1).movedim(1, 2)
        chain_MNR = joined.flatten(0, 1).flatten(1, 2)
    return chain_MNR[..., 0]


def decompose(
    matrix_MN: Tensor, rows: Sequence[int], columns: Sequence[int], rank: int
) -> list[Tensor]:
    """Return the cores of a matrix by TT-SVD (https://doi.org/10.1137/090752286).

    Exact where the rank suffices; else the error is at most sqrt(d - 1) times that of the best.
    """
    count, inner = len(rows), ranks(rows, columns, rank)
    paired = [place for mode in range(count) for place in (mode, count + mode)]
    rest = matrix_MN.reshape(*rows, *columns).permute(paired)
    cores = []
    for mode in range(count - 1):
        left, right = inner[mode], inner[mode + 1]
        u, values, v = torch.linalg.svd(
            rest.reshape(left * rows[mode] * columns[mode], -1), full_matrices=False
        )
        cores.append(u[:, :right].reshape(left, rows[mode], columns[mode], right))
        rest = values[:right, None] * v[:right]
    cores.append(rest.reshape(inner[-2], rows[-1], columns[-1], 1))
    return cores


def aligned(cores: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Return cores of the same matrix that lie as near as can be to *like*, from left to right.

    Between two cores any invertible matrix may be put beside its inverse; momenta of an optimizer,
    and whoever looks at a change, want the matrices that change least.
    """
    moved = list(cores)
    for bond in range(len(moved) - 1):
        own, due = moved[bond].flatten(0, 2), like[bond].flatten(0, 2)
        turn = torch.linalg.lstsq(own, due).solution
        if not bool(torch.linalg.cond(turn) < 1e3):  # also where it is no number
            u, _, v = torch.linalg.svd(own.T @ due)
            turn = u @ v
        moved[bond] = torch.tensordot(moved[bond], turn, dims=1)
        moved[bond + 1] = torch.tensordot(torch.linalg.inv(turn), moved[bond + 1], dims=1)
    return moved


# ---------------------------------------------------------------------------------- layers


def linear(ins: int, outs: int, option: TensorTrain | None) -> nn.Module:
    """Return a linear layer with a bias, as a chain of cores where that is smaller."""
    if option is not None:
        rows, columns = factors(outs, option.cores), factors(ins, option.cores)
        if parameters(rows, columns, option.rank) < ins * outs:
            return TrainLinear(rows, columns, option.rank)
    return nn.Linear(ins, outs)


def convolution(
    dims: int, channels: tuple[int, int], kernel: int, stride: int, option: TensorTrain | None
) -> nn.Module:
    """Return a convolution without a bias, padded to keep the size but for *stride*.

    *channels* are those that enter and leave; a chain of cores stands in where that is smaller.
    """
    ins, outs = channels
    if option is not None:
        rows, columns = factors(outs, option.cores), factors(ins, option.cores)
        if kernel > 1:
            rows, columns = (1, *rows), (kernel**dims, *columns)
        if parameters(rows, columns, option.rank) < ins * outs * kernel**dims:
            return TrainConvolution(rows, columns, option.rank, (kernel,) * dims, stride)
    make = nn.Conv3d if dims == 3 else nn.Conv2d
    return make(ins, outs, kernel, stride=stride, padding=kernel // 2, bias=False)


class TrainLinear(nn.Module):
    """A linear layer whose matrix is a chain of cores; drawn as Xavier draws, in its variance."""

    def __init__(self, rows: Sequence[int], columns: Sequence[int], rank: int) -> None:
        super().__init__()
        ins, outs = math.prod(columns), math.prod(rows)
        self.cores = _drawn(rows, columns, rank, variance=2 / (ins + outs))
        self.bias = nn.Parameter(torch.zeros(outs))

    def forward(self, features_BnF: Tensor) -> Tensor:
        """Return what the dense layer would."""
        return functional.linear(features_BnF, contract(list(self.cores)), self.bias)


class TrainConvolution(nn.Module):
    """A convolution whose kernel is a chain of cores; drawn as He draws, in its variance."""

    def __init__(
        self,
        rows: Sequence[int],
        columns: Sequence[int],
        rank: int,
        kernel: tuple[int, ...],
        stride: int,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.outs = math.prod(rows)
        fan_out = self.outs * math.prod(kernel)
        self.cores = _drawn(rows, columns, rank, variance=2 / fan_out)

    def forward(self, map_BCZYX: Tensor) -> Tensor:
        """Return what the dense convolution would."""
        weight = contract(list(self.cores)).reshape(self.outs, *self.kernel, -1).movedim(-1, 1)
        run = functional.conv3d if len(self.kernel) == 3 else functional.conv2d
        return run(map_BCZYX, weight, stride=self.stride, padding=self.kernel[0] // 2)


def _drawn(
    rows: Sequence[int], columns: Sequence[int], rank: int, *, variance: float
) -> nn.ParameterList:
    """Return normal cores, scaled alike so that the entries of their matrix have *variance*."""
    inner = ranks(rows, columns, rank)
    shapes = zip(inner, rows, columns, inner[1:], strict=False)
    cores = [torch.randn(shape) / shape[0] ** 0.5 for shape in shapes]
    each = (variance**0.5 / contract(cores).std()) ** (1 / len(cores))
    return nn.ParameterList(core * each for core in cores)


def _primes(size: int) -> list[int]:
    """Return the prime factors of *size*, ascending."""
    found, prime = [], 2
    while prime * prime <= size:
        while size % prime == 0:
            found.append(prime)
            size //= prime
        prime += 1
    return [*found, size] if size > 1 else found
