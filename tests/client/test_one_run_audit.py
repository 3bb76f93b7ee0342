"""One training run audits itself: which of its canaries took part, told from what it sends?

Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", https://arxiv.org/abs/
2305.08846. Each canary is a patient whose gradient is long and points where no other's does; half
of them, at random, take part. A lower bound on epsilon follows from how many are guessed rightly.

Shapes: M canaries.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from private_steps import private_run
from scipy.stats import binom
from torch import Tensor, nn

import confrere_client.privacy.private as module
from confrere_client.privacy.private import Private
from confrere_common.method import Augment, Method
from confrere_common.privacy.mechanism import Draw, noised
from confrere_common.privacy.terms import terms
from confrere_common.weights import Weights

CANARIES = 512
STEPS = 80
NOISE = 4.0
DELTA = 1e-5
SURE = 0.95


class Canaries(Method):
    """A method whose gradient for image i is a long vector along axis i."""

    per_image = True

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(CANARIES))

    def views(
        self,
        images: Tensor,
        augment: Augment,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor]:
        return (images,)

    def losses(self, *views: Tensor) -> Tensor:
        return 1000 * self.weights[views[0]]


def lower_bound(scores_M: NDArray[np.float64], inside_M: NDArray[np.bool_]) -> float:
    """Return the epsilon that guessing the best and worst thirds right or wrong proves."""
    guesses = CANARIES // 3
    order_M = np.argsort(scores_M)
    right = int(inside_M[order_M[-guesses:]].sum() + (~inside_M[order_M[:guesses]]).sum())
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        unlikely = p_value(2 * guesses, right, middle) < 1 - SURE
        low, high = (middle, high) if unlikely else (low, middle)
    return low


def p_value(guesses: int, right: int, epsilon: float) -> float:
    """Return how likely so many right guesses are at most, if epsilon holds (their theorem 5.2)."""
    truth = 1 / (1 + math.exp(-epsilon))
    missed = np.arange(1, right + 1)
    shares = np.cumsum(binom.pmf(right - missed, guesses, truth)) / missed
    return float(binom.sf(right - 1, guesses, truth) + 2 * CANARIES * DELTA * shares.max())


@dataclass(frozen=True)
class Audit:
    """What a run claims and what its canaries prove."""

    claimed: float
    proved: float


def audit(monkeypatch: pytest.MonkeyPatch, noise: object) -> Audit:
    monkeypatch.setattr(module, "noised", noise)
    generator = np.random.default_rng(0)
    inside_M = generator.random(CANARIES) < 0.5
    present = np.flatnonzero(inside_M)
    run = private_run(
        epsilon=50.0,
        delta=DELTA,
        noise_multiplier=NOISE,
        patients_per_step=CANARIES // 4,
        micro_batch=512,
    )
    assert run.privacy is not None
    agreed = replace(terms(run, CANARIES), steps=STEPS)
    made = Private(
        model=Canaries(),
        augment=lambda images, _: images,
        train=run.train,
        settings=run.privacy,
        terms=agreed,
        owners_N=np.arange(len(present)),
        charge=lambda _: None,
    )
    sent = made.gradients(lambda positions, _: (torch.from_numpy(present[positions]), ()))
    scores_M = sum(found["weights"].double() for found in sent).numpy()  # type: ignore[union-attr]
    return Audit(claimed=agreed.spent(1), proved=lower_bound(scores_M, inside_M))


def silent(sums: Weights, deviation: float, draw: Draw) -> Weights:  # noqa: ARG001
    return sums


def divided(sums: Weights, deviation: float, draw: Draw) -> Weights:
    return noised(sums, deviation / (CANARIES / 8), draw)


def test_canaries_prove_something_yet_never_more_than_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = audit(monkeypatch, noised)

    assert 0.1 < found.proved < found.claimed < 3


@pytest.mark.parametrize("noise", [silent, divided])
def test_without_its_noise_a_run_is_convicted_by_its_own_canaries(
    monkeypatch: pytest.MonkeyPatch, noise: object
) -> None:
    found = audit(monkeypatch, noise)

    assert found.proved > found.claimed
