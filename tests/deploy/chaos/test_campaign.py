"""A short campaign against a whole federation; ``tests/benchmarks/chaos.py`` is the long one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Campaign
from federation import federation

pytestmark = pytest.mark.long

KILLS, STRIKE_S, SEED = 14, 110, 20


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Iterator[Campaign]:
    """Return a campaign that is over, its processes still up."""
    with federation(tmp_path_factory.mktemp("chaos"), snapshot) as made:
        campaign = Campaign(made, SEED)
        try:
            made.open()
            campaign.begin()
            campaign.strike(KILLS, time.monotonic() + STRIKE_S)
            campaign.end()
        except (TimeoutError, AssertionError):
            for who in ("server", *made.names):
                print(f"== {who}\n{made.tail(who)}")  # noqa: T201  (pytest shows it)
            raise
        yield campaign


def test_every_run_ends_with_the_bytes_of_the_undisturbed_one(campaign: Campaign) -> None:
    encoders = {(run.path / "encoder.safetensors").read_bytes() for run in campaign.runs}

    assert campaign.calm is not None
    assert encoders == {(campaign.calm.path / "encoder.safetensors").read_bytes()}


def test_every_round_is_closed_once_with_every_site_in_it(campaign: Campaign) -> None:
    for run in campaign.runs:
        closed = campaign.federation.closed(run)

        assert [facts["round"] for facts in closed] == list(range(1, campaign.rounds + 1))
        assert {facts["sites"] for facts in closed} == {"alpha,beta,gamma"}


def test_the_logs_of_all_are_whole_and_no_update_differs_from_itself(campaign: Campaign) -> None:
    assert campaign.faults() == []


def test_somebody_was_killed(campaign: Campaign) -> None:
    hit = {one.who for one in campaign.strikes if one.kind == "kill"}

    assert len(hit) > 1, campaign.table()
