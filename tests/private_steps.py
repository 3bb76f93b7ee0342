"""Private steps small enough to audit: a few patients whose images are all alike.

Shapes: B images, C channels, Y X voxels.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from tiny_runs import ENCODERS, SIDE, Noise, tiny_run
from torch import Tensor

from confrere_client.privacy.private import Private, images_of
from confrere_common.config import Run
from confrere_common.method import METHODS, Method
from confrere_common.model import build_model
from confrere_common.privacy.mechanism import Draw, secure_bytes
from confrere_common.privacy.terms import terms
from confrere_common.weights import Weights

PAIRS = [
    (name, kind)
    for name, kind in itertools.product(METHODS.names(), ENCODERS)
    if METHODS.member(name).per_image and kind in (METHODS.member(name).encoder_kinds or (kind,))
]
"""Every method that may be private, with every encoder that it can train."""

SLOW = ("spark",)
"""Methods whose layers are not called as modules, so that only the reference engine takes them."""


def private_run(
    method: str = "mae", encoder: str | None = None, **privacy: float | str | None
) -> Run:
    asked = {"epsilon": 8.0, "patients_per_step": 4, "noise_multiplier": 1.2, **privacy}
    given = {} if encoder is None else {"encoder": dict(ENCODERS[encoder])}
    return tiny_run(method, privacy=asked, **given)


def still(images_BCYX: Tensor, _: torch.Generator) -> Tensor:
    """An augmentation that changes nothing: both views of an image are alike."""
    return images_BCYX.float() / 64 - 2


def free(_: object) -> None:
    """A charge that asks nobody."""


def private(run: Run, owners: Sequence[int], **parts: object) -> Private:
    """Return the real object over patients who own images as *owners* says."""
    assert run.privacy is not None
    owners_N = np.array(owners)
    made = Private(
        model=build_model(run, seed=0),
        augment=still,
        train=run.train,
        settings=run.privacy,
        terms=terms(run, len(set(owners))),
        owners_N=owners_N,
        charge=free,
    )
    return replace(made, **parts)  # type: ignore[arg-type]


def told(model: Method, images: Noise) -> Callable[[NDArray[np.int64]], list[Tensor]]:
    """Return what is known of images: all are of one class, targets are computed."""
    known: dict[str, Callable[[NDArray[np.int64]], Tensor]] = {
        "label": lambda positions: torch.zeros(len(positions), dtype=torch.int64),
        "target": lambda positions: torch.stack([*map(model.target, images.batch(positions))]),
    }
    return lambda positions: [known[kind](positions) for kind in model.wants]


def step(made: Private, images: Noise, draw: Draw | None = None) -> Weights:
    known = told(made.model, images)

    def see(positions: NDArray[np.int64], _: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        return images.batch(positions), known(positions)

    return made.step(images_of(made.owners_N), see, draw or secure_bytes())


def flat(weights: Weights) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def alike(patients: int, images: int) -> Noise:
    """Return noise whose images are the same within a patient: what adds up worst."""
    generator = torch.Generator().manual_seed(3)
    shape = (patients, 1, SIDE, SIDE)
    each = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Noise(each.repeat_interleave(images, 0))
