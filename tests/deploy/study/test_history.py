"""What a run's report is told of its rounds: alarms, and methods that do not fit the images."""

from collections.abc import Mapping

import pytest

from confrere_deploy.study.history import alarm_warnings, rounds_told
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.store import ServerState


def told(*rounds: Mapping[str, float]) -> list[str]:
    """Return the warnings of a run whose one site told these figures, round by round."""
    records = tuple(
        RoundRecord(
            round=number,
            bytes_up=0,
            bytes_down=0,
            seconds=1.0,
            sites=(SiteRecord(site="north", images=200, metrics=figures),),
        )
        for number, figures in enumerate(rounds, 1)
    )
    state = ServerState(round=len(rounds), weights={}, step={}, records=records)
    return list(alarm_warnings(rounds_told({0: state}, features=64)))


def test_images_without_an_upright_are_told_at_the_end_and_not_before() -> None:
    learning, chance = {"upright": 0.6}, {"upright": 0.02}

    (warning,) = told(chance, chance)

    assert warning.startswith("Seed 0, site 'north', last round: upright is 0.02")
    assert told(chance, learning) == []


@pytest.mark.parametrize("figures", [{}, {"rankme": 30.0}])
def test_methods_that_tell_nothing_of_turns_are_not_judged_by_them(
    figures: Mapping[str, float],
) -> None:
    assert told(figures) == []
