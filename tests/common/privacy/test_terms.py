"""What a run's privacy comes to at a site: nothing is guessed, and what is accounted happens."""

import math
from dataclasses import replace

import pytest
from private_steps import private_run
from tiny_runs import tiny_run

from confrere_common.errors import ConfigError, PrivacyError
from confrere_common.privacy.terms import HOPELESS, steps_in_round, terms


def test_auto_noise_keeps_all_rounds_and_the_spare_one_within_epsilon() -> None:
    run = private_run(epsilon=4.0, patients_per_step=10, noise_multiplier=None)

    found = terms(run, 100)

    assert found.rate == 0.1
    assert found.spent(3) <= 4.0 < 1.05 * found.spent(3)
    assert found.spent(1) < found.spent(2) < found.spent(3)


def test_a_noise_that_is_given_is_taken_as_it_is() -> None:
    assert terms(private_run(noise_multiplier=1.7), 50).noise == 1.7


@pytest.mark.parametrize(
    ("asked", "patients", "rate"), [(64, 20, 1.0), (1, 3, 0.333334), (7, 1000, 0.007)]
)
def test_the_rate_is_rounded_up_and_never_above_one(asked: int, patients: int, rate: float) -> None:
    found = terms(private_run(patients_per_step=asked), patients)

    assert found.rate == rate
    assert found.expected == pytest.approx(rate * patients)


def test_an_epoch_draws_each_patient_once_on_average() -> None:
    run = private_run(patients_per_step=10)
    epochs = replace(run, train=replace(run.train, steps_per_round=None, epochs_per_round=2.0))

    assert steps_in_round(epochs, 100) == terms(epochs, 100).steps == 20
    assert steps_in_round(run, 100) == run.train.steps_per_round


def test_noise_over_signal_is_that_of_the_design() -> None:
    """``privacy.md`` 1.6: sigma sqrt(d) / B."""
    found = terms(private_run(noise_multiplier=2.0, patients_per_step=50), 100)

    assert found.noise_to_signal(10_000) == pytest.approx(2 * 100 / 50)
    assert HOPELESS == 10


@pytest.mark.parametrize(("delta", "patients"), [(0.005, 200), (1e-5, 100_000), (1e-5, 0)])
def test_a_delta_that_would_give_a_patient_away_is_refused(delta: float, patients: int) -> None:
    with pytest.raises(PrivacyError, match=r"Lower privacy\.delta"):
        terms(private_run(delta=delta), patients)


def test_a_run_without_privacy_has_no_terms() -> None:
    with pytest.raises(PrivacyError, match="asks for no privacy"):
        terms(tiny_run(), 10)


NONSENSE = [math.nan, math.inf, -math.inf, 0.0, -1.0]


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize(
    "field",
    [
        "epsilon",
        "delta",
        "clip_norm",
        "noise_multiplier",
        "patients_per_step",
        "max_images_per_patient",
        "micro_batch",
    ],
)
def test_a_run_of_nonsense_is_refused_as_it_is_read(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        private_run(**{field: value})


def test_the_unit_is_the_patient_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match="unit"):
        private_run(unit="image")
