"""Named arrays and their algebra: what sites train, send, and join. Pure functions.

``Weights`` maps a parameter's name to its tensor; all tensors are float32 on the CPU unless said.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from confrere_common.errors import ExchangeError
from confrere_common.pack import Filed

Weights: TypeAlias = Mapping[str, Tensor]
"""Parameter name -> tensor."""

SMALL = 4096
"""Entries of a tensor below which calling an operation takes longer than the operation."""

LUMP = 1 << 16
"""Entries of small tensors that are looked at together."""


def combine(function: Callable[..., Tensor], *many: Weights) -> dict[str, Tensor]:
    """Apply *function* to the tensors that share a name; every argument holds the same names."""
    return {name: function(*(weights[name] for weights in many)) for name in many[0]}


def zeros_like(weights: Weights) -> dict[str, Tensor]:
    """Return float32 zeros of the same names and shapes."""
    return combine(lambda tensor: torch.zeros_like(tensor, dtype=torch.float32), weights)


def add(left: Weights, right: Weights) -> dict[str, Tensor]:
    """Return left + right."""
    return combine(torch.add, left, right)


def subtract(left: Weights, right: Weights) -> dict[str, Tensor]:
    """Return left - right: a site's delta is what it trained minus what it was given."""
    if left and isinstance(left, dict) and isinstance(right, dict):  # a file's come one by one
        found = torch._foreach_sub([*left.values()], [right[name] for name in left])
        return dict(zip(left, found, strict=True))
    return combine(torch.sub, left, right)


def lumps(weights: Weights) -> Iterator[Tensor]:
    """Yield all entries once: large tensors as they are, one at a time, small ones in lumps.

    For what looks at every entry and asks for no names: a ResNet has dozens of tiny tensors.
    """
    small: list[Tensor] = []
    held = 0
    for tensor in weights.values():
        if tensor.numel() >= SMALL or tensor.dtype != torch.float32:
            yield tensor  # one of another type would change what it is joined with
            continue
        small.append(tensor.reshape(-1))
        held += tensor.numel()
        if held >= LUMP:
            yield torch.cat(small)
            small, held = [], 0
    if small:
        yield torch.cat(small)


def scale(weights: Weights, factor: float) -> Weights:
    """Return weights * factor; of what lies in a file, each when it is asked for."""
    if isinstance(weights, Filed):
        return _Scaled(weights, factor)
    return combine(lambda tensor: tensor * factor, weights)


class _Scaled(Mapping[str, Tensor]):
    def __init__(self, whole: Filed, factor: float) -> None:
        self.whole, self.factor = whole, factor

    def __getitem__(self, name: str) -> Tensor:
        return self.whole[name] * self.factor

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


def norm(weights: Weights) -> float:
    """Return the Euclidean norm over all entries, accumulated in float64."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in weights.values()))


def count(weights: Weights) -> int:
    """Return the number of entries."""
    return sum(tensor.numel() for tensor in weights.values())


def nbytes(weights: Weights) -> int:
    """Return the bytes that the tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def weights_digest(weights: Weights) -> str:
    """Return the SHA-256 over names, shapes and bytes, as hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finite(weights: Weights) -> bool:
    """Say whether every entry is a finite number."""
    return all(_finite(tensor) for tensor in lumps(weights))


def must_fit(weights: Weights, template: Weights) -> None:
    """Raise ExchangeError unless names, shapes and types are the template's, every entry finite."""
    must_match(weights, template)
    for name, tensor in weights.items():
        if not _finite(tensor):
            raise ExchangeError(f"'{name}' holds NaN or infinite entries")


def differing(one: Weights, other: Weights) -> list[str]:
    """Return the names, sorted, of what only one has or has in another shape."""
    return sorted(
        name for name in one.keys() | other.keys()
        if name not in one or name not in other or one[name].shape != other[name].shape
    )  # fmt: skip


def must_match(weights: Weights, template: Weights) -> None:
    """Raise ExchangeError unless names, shapes and types are the template's."""
    if weights.keys() != template.keys():
        odd = sorted(weights.keys() ^ template.keys())
        # A foreign name goes into logs and onto terminals: of any length, of any marks it may be.
        first = f"{odd[0]!a:.80}"
        raise ExchangeError(f"names differ from the model's in {len(odd)} places, first {first}")
    for name, (shape, dtype) in forms(weights).items():
        due = template[name]
        if shape != tuple(due.shape):
            raise ExchangeError(f"'{name}' has shape {shape}; the model's is {tuple(due.shape)}")
        if dtype != due.dtype:
            raise ExchangeError(f"'{name}' is {dtype}, the model's {due.dtype}")


def forms(weights: Weights) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return name -> shape and type; of what lies in a file, no tensor is read for it."""
    if isinstance(weights, _Scaled):
        return forms(weights.whole)
    if isinstance(weights, Filed):
        return {name: (place.shape, place.dtype) for name, place in weights.places.items()}
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}


def _finite(tensor: Tensor) -> bool:
    # What is no number makes a sum none, in one pass; a sum that overflowed is looked at again.
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
