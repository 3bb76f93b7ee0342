"""The hold on a worker process: one that dies, hangs or raves costs its round and no more."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import until

from confrere_client.daemon.errand import Errand
from confrere_client.daemon.hands import Hands

TESTS = Path(__file__).parents[2]


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Callable[..., Hands]]:
    made: list[Hands] = []

    def make(**changes: Any) -> Hands:
        environment = {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        given = {"environment": environment | changes.pop("environment", {})}
        made.append(
            Hands(
                folder=tmp_path,
                log_file=tmp_path / "worker.log",
                module="idle_worker",
                **given,
                **changes,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.drop()


def errand(what: str, key: str = "key") -> Errand:
    return Errand(key=key, run_id=what, round=1, path=Path("task"), code="c")


def ended(hands: Hands) -> Any:
    return until(hands.look)


def test_an_errand_is_carried_out_and_told(hands: Callable[..., Hands]) -> None:
    held = hands()
    held.give(errand("steps-done"), 60)

    said = ended(held)

    assert said == {"errand": "key", "done": True}
    assert held.errand is None
    assert (held.last["step"], held.last["steps"], held.last["loss"]) == (2, 2, 0.25)
    assert held.look() is None


def test_a_refusal_is_handed_on(hands: Callable[..., Hands]) -> None:
    held = hands()
    held.give(errand("refuses"), 60)

    assert ended(held)["refused"] == "data-unreadable"


def test_the_worker_stays_warm_within_a_run_and_no_longer(hands: Callable[..., Hands]) -> None:
    held = hands()
    pids = []
    for run, key in (("done", "1"), ("done", "2"), ("done-", "3")):
        held.give(errand(run, key), 60)
        ended(held)
        pids.append(held.pid)

    assert pids[0] is not None
    assert pids[0] == pids[1] != pids[2]


def test_a_new_errand_ends_the_one_before(hands: Callable[..., Hands]) -> None:
    held = hands()
    held.give(errand("hangs", "1"), 60)
    before = held.pid
    held.give(errand("done", "2"), 60)

    assert ended(held)["errand"] == "2"
    assert held.pid != before


def test_what_is_said_of_an_earlier_errand_is_not_taken_for_this_one(
    hands: Callable[..., Hands],
) -> None:
    held = hands()
    held.give(errand("old-refuses"), 60)

    assert ended(held) == {"errand": "key", "refused": "data-unreadable"}


def test_a_worker_that_dies_is_given_the_errand_once_more_and_then_it_is_declined(
    hands: Callable[..., Hands],
) -> None:
    held = hands()
    held.give(errand("dies"), 60)

    assert ended(held) == {"refused": "worker-died"}
    assert held.errand is None
    assert held.pid is None


def test_a_dead_worker_that_has_not_read_all_is_dropped_like_any(
    hands: Callable[..., Hands],
) -> None:
    one = hands()
    one.give(errand("silent"), 60)
    process = one._process
    assert process is not None
    assert process.stdin is not None
    process.kill()
    process.wait()
    process.stdin.write("what it never read")

    one.drop()

    assert one.pid is None


def test_a_worker_that_raves_is_one_that_died(hands: Callable[..., Hands]) -> None:
    held = hands()
    held.give(errand("raves"), 60)

    assert ended(held) == {"refused": "worker-died"}


def test_a_worker_that_hangs_is_ended(hands: Callable[..., Hands]) -> None:
    held = hands(silent_s=0.4)
    held.give(errand("hangs"), 60)
    pid = held.pid

    assert ended(held) == {"refused": "worker-hung"}
    assert held.pid is None
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_round_that_takes_longer_than_the_policy_allows_is_ended(
    hands: Callable[..., Hands],
) -> None:
    held = hands()
    held.give(errand("hangs"), 0.3)

    assert ended(held) == {"refused": "round-too-long"}


def test_the_policys_gpus_are_all_that_the_worker_is_shown(hands: Callable[..., Hands]) -> None:
    held = hands(environment={"CUDA_VISIBLE_DEVICES": "1"})
    held.give(errand("tells"), 60)

    assert ended(held)["refused"] == "1"


def test_without_an_errand_there_is_nothing_to_look_at(hands: Callable[..., Hands]) -> None:
    held = hands()

    began = time.monotonic()
    assert held.look() is None
    held.drop()
    assert time.monotonic() - began < 1
    assert held.pid is None
