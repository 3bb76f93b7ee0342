"""Clip and noise: the first bounds a patient's part in a step, the second hides it.

What arithmetic may break, and what is done about it:

- Norms are accumulated in float64, and patients are clipped to ``1 - MARGIN`` of the limit: the
  rounding of float32 products and sums (2**-24 each) stays far below that margin.
- A gradient that is not finite contributes zero, so the bound holds for every input.
- Noise is drawn in float64 from 64 bits each for radius and angle (Box-Muller), so its tail reaches
  9.4 deviations. Its bits come from AES-256 in counter mode under a key that the operating system
  draws anew for each round; the key is never stored, so no noise can be drawn twice.
- Floating-point noise has holes from which a sum can be read (Mironov 2012,
  https://doi.org/10.1145/2382196.2382264). The noised sum is therefore rounded to a grid of a power
  of two near 2**-20 deviations: some 2**30 noise values share a point of it, and float32 holds
  every point within 16 deviations exactly. That is hardening and no proof; for that the noise
  itself would have to be discrete.

Shapes: P patients; the gradient of one parameter for all of them is ``(P, ...)``.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

Draw: TypeAlias = Callable[[int], bytes]
"""How many bytes -> that many, which nobody can foretell."""

MARGIN = 2.0**-12
GRID_BITS = 20
CHUNK = 1 << 18
"""Noise entries drawn at a time: they stay near a core."""


def secure_bytes() -> Draw:
    """Return a generator of secret bytes; it cannot be copied, saved or started again."""
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def draw(count: int) -> bytes:
        return cipher.update(bytes(count))

    return draw


def chosen(count: int, rate: float, draw: Draw) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return which of *count* patients take part in a step (Poisson sampling), ascending.

    Guarantee: each patient is in with probability at most *rate* and at least *rate* - 2**-53,
    independently of all others and of every other step.
    """
    words = np.frombuffer(draw(8 * count), np.uint64) >> np.uint64(11)
    return np.flatnonzero(words < np.uint64(math.floor(rate * 2**53)))


def factors(norms_P: Tensor, clip_norm: float) -> Tensor:
    """Return what to multiply each patient's gradient by, from the norms of these gradients.

    Guarantee: factor times norm is at most (1 - MARGIN) clip_norm, for every norm that is finite;
    the factor of any other is 0.
    """
    limit = clip_norm * (1 - MARGIN)
    clipped_P = torch.clamp(limit / norms_P.double(), max=1.0)
    return torch.where(torch.isfinite(norms_P), clipped_P, 0.0)


def clipped_sum(gradients: Mapping[str, Tensor], clip_norm: float) -> dict[str, Tensor]:
    """Return the sum over patients of their clipped gradients, from gradients of shape (P, ...).

    Guarantee: no patient, whatever the images are, moves this sum by more than clip_norm.
    """
    device = next(iter(gradients.values())).device
    with exact(device):
        return weighted_sums(gradients, factors(norms(gradients), clip_norm))


def weighted_sums(gradients: Mapping[str, Tensor], factors_P: Tensor) -> dict[str, Tensor]:
    """Return the sum over patients of gradient times factor; a factor of 0 takes NaN away too."""
    if not bool((factors_P > 0).all()):
        gradients = {name: _only(factors_P > 0, tensor) for name, tensor in gradients.items()}
    return {
        name: torch.mv(tensor.flatten(1).T, factors_P.to(tensor.dtype)).view(tensor.shape[1:])
        for name, tensor in gradients.items()
    }


def norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return each patient's Euclidean norm over all parameters, shape (P,), in float64."""
    squares = [
        torch.linalg.vector_norm(tensor.flatten(1), dim=1, dtype=torch.float64).square()
        for tensor in gradients.values()
    ]
    return torch.stack(squares).sum(0).sqrt()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Put half precision and TF32 aside: what is clipped must be what is summed."""
    before = torch.get_float32_matmul_precision()
    plain = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with (
        torch.autocast(device.type, enabled=False),
        plain if device.type == "cuda" else nullcontext(),
    ):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def noised(sums: Mapping[str, Tensor], deviation: float, draw: Draw) -> dict[str, Tensor]:
    """Return *sums* with Gaussian noise of this standard deviation on every entry, in float64.

    Guarantee: fresh, independent noise from *draw*, once for each entry; the result is rounded to
    the grid of the module's documentation.

    Divide afterwards: noise and sum shrink together.
    """
    return {name: _noised(tensor, deviation, draw) for name, tensor in sums.items()}


def normal(count: int, draw: Draw) -> Tensor:
    """Return *count* standard normal values in float64."""
    pairs = (count + 1) // 2
    words = np.frombuffer(draw(16 * pairs), np.uint64).astype(np.float64)
    uniform = torch.from_numpy(words).add_(0.5).mul_(2.0**-64)
    radius, angle = uniform[:pairs].log_().mul_(-2).sqrt_(), uniform[pairs:].mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def grid(deviation: float) -> float:
    """Return the spacing of what noise of this deviation may come to: a power of two."""
    return 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)


def _noised(summed: Tensor, deviation: float, draw: Draw) -> Tensor:
    spacing = grid(deviation)
    flat = summed.detach().to("cpu", torch.float64, copy=True).flatten()
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        part.add_(normal(len(part), draw), alpha=deviation)
        part.div_(spacing).round_().mul_(spacing)
    return flat.view_as(summed)


def _only(sound_P: Tensor, tensor: Tensor) -> Tensor:
    return torch.where(sound_P.view(-1, *(1,) * (tensor.ndim - 1)), tensor, 0)
