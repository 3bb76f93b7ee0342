"""Epsilon is an upper bound that two other accountants confirm, and nonsense is refused."""

import math
import warnings

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from confrere_common.errors import PrivacyError
from confrere_common.privacy.accounting import Budget, Event, epsilon, noise_for

CASES = [
    (0.01, 1.0, 1000, 1.828),
    (0.05, 1.0, 500, 7.524),
    (0.25, 1.0, 40, 11.28),
    (0.001, 0.6, 10000, 2.456),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "known"), CASES)
def test_epsilon_is_what_others_compute(
    rate: float, noise: float, steps: int, known: float
) -> None:
    """``epsilon``: "Guarantee: an upper bound; whoever sees all that the events released cannot
    tell any patient's presence apart better than (epsilon, delta) allows."
    """
    found = epsilon([Event(rate=rate, noise=noise, steps=steps)], 1e-5)

    assert found == pytest.approx(known, abs=0.006)
    assert opacus_prv(rate, noise, steps) == pytest.approx(found, abs=0.03)
    assert found <= rdp(rate, noise, steps)


def opacus_prv(rate: float, noise: float, steps: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(noise, rate, steps)]
        return float(accountant.get_epsilon(delta=1e-5))


def rdp(rate: float, noise: float, steps: int) -> float:
    accountant = RdpAccountant()
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(1e-5))


def test_without_sampling_a_step_costs_what_the_gaussian_mechanism_does() -> None:
    """The closed form of Balle and Wang, https://arxiv.org/abs/1805.06530, at noise 2."""
    found = epsilon([Event(rate=1.0, noise=2.0, steps=1)], 1e-5)

    def delta(value: float) -> float:
        def below(x: float) -> float:
            return 0.5 * math.erfc(-x / math.sqrt(2))

        return below(0.25 - value * 2) - math.exp(value) * below(-0.25 - value * 2)

    assert delta(found) <= 1e-5 <= delta(found - 0.01)


def test_spends_of_many_kinds_add_up_to_less_than_their_sum_and_more_than_each() -> None:
    one, two = Event(rate=0.05, noise=1.0, steps=100), Event(rate=0.1, noise=2.0, steps=50)

    both = epsilon([one, two], 1e-5)

    assert max(epsilon([one], 1e-5), epsilon([two], 1e-5)) < both
    assert both < epsilon([one], 1e-5) + epsilon([two], 1e-5)
    assert epsilon([two, one], 1e-5) == both
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8.0, 0.1, 100), (1.0, 0.02, 500), (3.0, 1.0, 20)]
)
def test_the_noise_for_a_budget_keeps_to_it_and_hardly_more(
    target: float, rate: float, steps: int
) -> None:
    noise = noise_for(Budget(epsilon=target, delta=1e-5), rate=rate, steps=steps)

    assert epsilon([Event(rate=rate, noise=noise, steps=steps)], 1e-5) <= target
    assert epsilon([Event(rate=rate, noise=0.98 * noise, steps=steps)], 1e-5) > target


def test_a_budget_that_no_noise_keeps_is_told_as_such() -> None:
    with pytest.raises(PrivacyError, match="Plan fewer rounds or steps"):
        noise_for(Budget(epsilon=1e-4, delta=1e-9), rate=1.0, steps=10**7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e9])
@pytest.mark.parametrize("field", ["rate", "noise", "steps"])
def test_events_of_nonsense_are_refused(field: str, value: float) -> None:
    sound = {"rate": 0.1, "noise": 1.0, "steps": 10}

    with pytest.raises(PrivacyError, match=field):
        Event(**{**sound, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("field", ["epsilon", "delta"])
def test_budgets_of_nonsense_are_refused(field: str, value: float) -> None:
    with pytest.raises(PrivacyError, match=field):
        Budget(**{"epsilon": 1.0, "delta": 1e-5, field: value})


def test_noise_that_hides_nobody_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"noise is 0\.1"):
        Event(rate=0.1, noise=0.1, steps=1)
