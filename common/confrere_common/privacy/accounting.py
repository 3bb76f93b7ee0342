"""What noised steps cost: events -> epsilon, as an upper bound by privacy loss distributions.

The bound is that of Google's dp-accounting (pessimistic discretisation; https://arxiv.org/abs/
2207.04380), for patients who are added to or taken from a data set (Poisson sampling).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache, reduce
from typing import Any

from confrere_common.errors import PrivacyError
from confrere_common.privacy.settings import LEAST_NOISE

INTERVAL = 1e-3
"""Spacing of privacy losses. A tenth of it lowers epsilon by a thousandth where epsilon is above 1;
below that, where it matters more and costs little, a tenth of it is taken."""

MOST_NOISE = 1e4
MOST_STEPS = 10**8
TOLERANCE = 0.005
"""Noise is found to half a percent, on the safe side."""

WIDEN = 1.05
"""Steps of the search before it is bracketed."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Steps that each draw every patient at *rate* and add *noise* (times the clip norm)."""

    rate: float
    noise: float
    steps: int

    def __post_init__(self) -> None:
        limits = {"rate": (0.0, 1.0), "noise": (0.0, MOST_NOISE), "steps": (0, MOST_STEPS)}
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), limits[field.name]
            if not (math.isfinite(value) and low < value <= high):
                raise PrivacyError(
                    f"{field.name} is {value!r}: it must lie above {low} and at most at {high}."
                )
        if self.noise < LEAST_NOISE:
            raise PrivacyError(
                f"noise is {self.noise!r}: below {LEAST_NOISE} times the clip norm nobody is "
                "hidden. Raise privacy.noise_multiplier, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the patients of a data set may be charged in all."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise PrivacyError(f"epsilon is {self.epsilon!r}: it must be finite and above 0.")
        if not 0 < self.delta < 1:
            raise PrivacyError(f"delta is {self.delta!r}: it must lie between 0 and 1.")


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Return what *events* cost together.

    Guarantee: an upper bound; whoever sees all that the events released cannot tell any patient's
    presence apart better than (epsilon, delta) allows.
    """
    total: Counter[tuple[float, float]] = Counter()
    for event in events:
        total[event.rate, event.noise] += event.steps
    return _epsilon(tuple(sorted((*kind, steps) for kind, steps in total.items())), delta)


def noise_for(budget: Budget, *, rate: float, steps: int) -> float:
    """Return the least noise, to half a percent, whose *steps* stay within *budget*.

    PrivacyError when no noise is enough.
    """

    def over(noise: float) -> bool:
        event = Event(rate=rate, noise=noise, steps=steps)
        return epsilon([event], budget.delta) > budget.epsilon

    high = max(LEAST_NOISE, _guess(budget, rate, steps))
    while over(min(high, MOST_NOISE)):
        high *= WIDEN
        if high > MOST_NOISE:
            raise PrivacyError(
                f"no noise keeps {steps} steps at a sampling rate of {rate:.4g} within epsilon "
                f"{budget.epsilon:g}. Plan fewer rounds or steps, or ask for more epsilon."
            )
    low = max(LEAST_NOISE, high / WIDEN)
    while low > LEAST_NOISE and not over(low):
        low, high = max(LEAST_NOISE, low / WIDEN), low
    while high > low * (1 + TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if over(middle) else (low, middle)
    return math.ceil(high * 1e4) / 1e4


def _guess(budget: Budget, rate: float, steps: int) -> float:
    """Return about the right noise, by the central limit theorem for privacy.

    https://arxiv.org/abs/1911.11607: many steps are like one Gaussian of mean rate *
    sqrt(steps * (exp(1 / noise**2) - 1)).
    """
    low, high = 0.0, 100.0
    for _ in range(60):
        mean = (low + high) / 2
        low, high = (mean, high) if _delta(budget.epsilon, mean) < budget.delta else (low, mean)
    return 1 / math.sqrt(math.log1p((low / rate) ** 2 / steps) + 1e-300)


def _delta(epsilon: float, mean: float) -> float:
    """Return the delta of one Gaussian mechanism whose noise is 1 / *mean*."""
    near, far = (math.erfc((epsilon / mean + side * mean / 2) / math.sqrt(2)) for side in (-1, 1))
    return 0.5 * (near - math.exp(epsilon) * far)


@lru_cache(maxsize=4096)
def _epsilon(kinds: tuple[tuple[float, float, int], ...], delta: float) -> float:
    found = _bound(kinds, delta, INTERVAL)
    return found if found > 1 or not kinds else min(found, _bound(kinds, delta, INTERVAL / 10))


def _bound(kinds: tuple[tuple[float, float, int], ...], delta: float, interval: float) -> float:
    if not kinds:
        return 0.0
    parts = [_one_step(rate, noise, interval).self_compose(steps) for rate, noise, steps in kinds]
    return float(reduce(lambda one, two: one.compose(two), parts).get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _one_step(rate: float, noise: float, interval: float) -> Any:
    # Imported here: it takes a second and more, which a run without privacy, and every daemon that
    # comes back after a crash, would pay for nothing.
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval
    )
