"""A run that waits for its sites gives way: those behind it have their turn, and it has its own."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict
from puppet import Answering, playing, willing
from served import Folders, enrolled, federated, make_study, served, until

from confrere_client.daemon.fleet import Incoming, Line
from confrere_client.hospital.site import SiteFolder
from confrere_common.proposal import Standing
from confrere_common.wire import read_proposal_records, standing_records
from confrere_server.runs import conduct, turns
from confrere_server.runs.queue import Folder, submit
from confrere_server.runs.turns import FIRST_WAIT_S, LATER_WAIT_S, GaveWay, Turn, Turns

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def queued(runs: Path, minute: int = 0, **changes: Any) -> Folder:
    run = replace(federated(), name=f"run{minute}")
    folder = submit(runs, run, now=NOW + timedelta(minutes=minute))
    folder.stand(replace(folder.standing, **changes))
    return folder


def waited(folder: Folder, others: bool, at_most_s: float) -> float:
    """Return after how many seconds the run gives way."""
    clock = Clock()
    turn = Turn(folder=folder, others=lambda: others, clock=clock, sleep=clock.sleep)
    while clock.now < at_most_s:
        try:
            turn.pause(0.5)
        except GaveWay:
            return clock.now
    return float("inf")


def test_a_run_that_gathers_in_vain_gives_way_after_a_while(tmp_path: Path) -> None:
    folder = queued(tmp_path, state="gathering")

    assert waited(folder, True, 100) == pytest.approx(FIRST_WAIT_S, abs=1)


def test_one_that_has_begun_is_more_patient(tmp_path: Path) -> None:
    folder = queued(tmp_path, state="gathering", round=1)

    assert waited(folder, True, 1000) == pytest.approx(LATER_WAIT_S, abs=1)


def test_a_run_that_is_alone_or_at_work_gives_way_to_nobody(tmp_path: Path) -> None:
    assert waited(queued(tmp_path, 1, state="gathering"), False, 1000) == float("inf")
    assert waited(queued(tmp_path, 2, state="training"), True, 1000) == float("inf")


def test_the_oldest_comes_first_and_each_that_gave_way_has_its_turn_again(tmp_path: Path) -> None:
    one, two = queued(tmp_path, 1), queued(tmp_path, 2)
    queue = Turns(runs=tmp_path)

    came = []
    for _ in range(4):
        folder = queue.next()
        assert folder is not None
        came.append(folder)
        queue.passed(folder)

    assert came == [one, two, one, two]


def test_after_a_run_has_ended_the_oldest_is_looked_at_first(tmp_path: Path) -> None:
    one, two, _ = queued(tmp_path, 1), queued(tmp_path, 2), queued(tmp_path, 3)
    queue = Turns(runs=tmp_path)
    queue.passed(one)
    two.stand(replace(two.standing, state="done"))

    queue.ended()

    assert queue.next() == one


def test_without_open_runs_it_is_nobodys_turn(tmp_path: Path) -> None:
    done = queued(tmp_path, 1, state="done")
    queue = Turns(runs=tmp_path)
    queue.passed(done)

    assert queue.next() is None
    assert not queue.others(done)


# ------------------------------------------------------------------------- over a real line


def choosy(site: SiteFolder, approved: set[str]) -> Answering:
    """Approve the runs of these names alone; the others wait for a person."""
    sound, name = willing(site), site.config.site

    def answer(line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            proposal = read_proposal_records(line.fetch(incoming))
            if proposal.run_id.split("-")[0] not in approved:
                said = Standing(site=name, state="waiting", code="not-approved", images=0)
                return standing_records(said)
            return standing_records(Standing(site=name, state="approved", code="", images=7))
        return sound(line, incoming)

    return answer


def test_a_run_that_nobody_approves_blocks_none_behind_it_and_begins_when_it_is_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "PROPOSE_EVERY_S", 0.2)
    monkeypatch.setattr(turns, "FIRST_WAIT_S", 1.0)
    study = make_study(tmp_path / "study")
    approved = {"behind"}
    shape = federated(min_sites=1, rounds=1)
    with served(study):
        north = enrolled(study, tmp_path / "north", "north")
        first = submit(study.runs, replace(shape, name="first"))
        behind = submit(study.runs, replace(shape, name="behind"))
        with playing(north, choosy(north, approved)):
            until(lambda: behind.standing.state == "done", 25)
            waiting = first.standing.state
            approved.add("first")
            until(lambda: first.standing.state == "done", 25)

    assert waiting == "gathering"
    begun = [event for event in Folders(study).events() if event == "run begun"]
    assert len(begun) == 2  # turns that are taken up again fill no log
