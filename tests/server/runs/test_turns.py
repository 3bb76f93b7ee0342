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
from confrere_server.admission import Repute
from confrere_server.runs import conduct, turns
from confrere_server.runs.conduct import Conductor
from confrere_server.runs.queue import Folder, submit
from confrere_server.runs.start_weights import fresh
from confrere_server.runs.turns import FIRST_WAIT_S, LATER_WAIT_S, GaveWay, Turn, Turns
from confrere_server.store import newest_state, save_state

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


def test_a_wait_before_a_round_with_a_result_is_forgotten_after_it(tmp_path: Path) -> None:
    folder = queued(tmp_path, state="gathering")
    clock = Clock()
    turn = Turn(folder=folder, others=lambda: True, clock=clock, sleep=clock.sleep)
    turn.pause(0.5)

    clock.now += 2 * LATER_WAIT_S  # a round; it pauses otherwise
    folder.stand(replace(folder.standing, round=1, paces_s=(2 * LATER_WAIT_S,)))
    turn.pause(0.5)

    assert clock.now > 2 * LATER_WAIT_S  # and it has not given way


def test_void_rounds_because_of_sites_that_are_silent_give_way_as_well(tmp_path: Path) -> None:
    folder = queued(tmp_path, state="training", round=3, why="round 4 is void: it is held again")
    clock = Clock()
    turn = Turn(folder=folder, others=lambda: True, clock=clock, sleep=clock.sleep)
    turn.pause(0.5)

    clock.now += LATER_WAIT_S

    with pytest.raises(GaveWay):
        turn.pause(0.5)


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


def test_a_run_that_waits_is_stopped_at_once_and_not_in_its_turn(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    with served(study):
        first, behind = (submit(study.runs, federated(min_sites=1)) for _ in range(2))
        until(lambda: first.standing.state == "gathering", 10)

        behind.ask_for("stop")
        until(lambda: behind.standing.state == "stopped", 5)
        at_work = first.standing.state

    assert at_work == "gathering"
    assert behind.wish == ""
    assert "run stopped" in Folders(study).events()


@dataclass(frozen=True)
class Nobody:
    """A line with nobody at its other end."""

    def nodes(self) -> dict[str, int]:
        return {}

    def online(self) -> set[str]:
        return set()


def test_a_site_that_was_cleared_stays_so_when_the_run_gives_way(tmp_path: Path) -> None:
    folder = submit(tmp_path, federated())
    root, digest = folder.path / "checkpoints", folder.order.digest
    state = fresh(folder, folder.order.parsed())
    suspended = replace(state, repute=Repute(offences={"bad": (1, 2)}, suspended=("bad",)))
    save_state(root, suspended, digest=digest, keep=2)
    folder.clear("bad")
    nobody: Any = Nobody()

    def gives_way(_: float) -> None:
        raise GaveWay

    conductor = Conductor(
        folder=folder, study="", carrier=nobody, note=lambda *_, **__: None,
        halted=lambda: False, pause=gives_way,
    )  # fmt: skip
    with pytest.raises(GaveWay):
        conductor.carry_out()

    found = newest_state(root, digest=digest)
    assert found is not None
    assert found.repute == Repute()
