import mmap
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from confrere_client.ingest.working import pool as pools
from confrere_client.ingest.working.pool import Pool, Said, Task, _Hand


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    made = Pool(jobs=2, settings=dict, memory_bytes=100, module="failing_worker")
    with made:
        yield made


def task(do: str, number: int = 0, *, limit_s: float = 30, nbytes: int = 0, says: int = 0) -> Task:
    return Task(ask={"do": do, "number": number, "says": says}, limit_s=limit_s, nbytes=nbytes)


def last_words(pool: Pool, tasks: list[Task]) -> dict[int, Said]:
    return {
        given.ask["number"]: said for given, said in pool.carry_out(tasks) if "number" not in said
    }


def test_every_task_is_answered_once_whatever_dies(pool: Pool) -> None:
    tasks = [task("die" if number in (3, 4, 11) else "answer", number) for number in range(20)]
    counted: Counter[int] = Counter()
    words = {}

    for given, said in pool.carry_out(tasks):
        counted[given.ask["number"]] += 1
        words[given.ask["number"]] = said

    assert counted == Counter(range(20))
    died = {number for number, said in words.items() if said.get("skip") == "crashed the reader"}
    assert died == {3, 4, 11}


def test_a_task_that_hangs_is_ended_and_the_others_go_on(pool: Pool) -> None:
    tasks = [task("hang", 0, limit_s=1.0), *(task("answer", number) for number in range(1, 9))]

    words = last_words(pool, tasks)

    assert words.pop(0)["skip"] == "takes too long"
    assert all("done" in said for said in words.values())


class Watched:
    """A worker that is none, held against a clock that only a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *limits_s: float) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.begun = mmap.mmap(-1, pools.COUNTER_BYTES)
        self.hand = _Hand(process=cast(Any, None), line=cast(Any, None), begun=self.begun)
        for number, limit_s in enumerate(limits_s):
            self.hand.give(task("answer", number, limit_s=limit_s))

    def begins(self, count: int) -> None:
        self.begun[:] = count.to_bytes(pools.COUNTER_BYTES, sys.byteorder)

    def late_after(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.hand.late()


def test_a_task_has_its_own_time_and_not_that_of_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, 1, 300, 300)
    watched.begins(1)

    assert [watched.late_after(seconds) for seconds in (0, 0.9, 0.2)] == [False, False, True]


def test_a_task_has_its_time_from_when_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 300, 1)
    watched.begins(1)
    before = watched.late_after(0), watched.late_after(200)

    watched.begins(2)  # nothing was told of the first yet

    assert before == (False, False)
    assert [watched.late_after(seconds) for seconds in (50, 0.9, 0.2)] == [False, False, True]
    assert watched.hand.at_work() == 1


def test_a_worker_that_loads_its_readers_has_the_longest_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, 1, 300)

    assert [watched.late_after(seconds) for seconds in (299, 2)] == [False, True]


def test_a_worker_without_a_task_is_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 1)
    watched.begins(1)
    watched.hand.finish()
    idle = watched.late_after(0), watched.late_after(1000)

    watched.hand.give(task("answer", 1, limit_s=1))

    assert idle == (False, False)
    assert [watched.late_after(seconds) for seconds in (0.9, 0.2)] == [False, True]


def test_all_that_a_worker_says_is_heard_in_order(pool: Pool) -> None:
    said = [said.get("number") for _, said in pool.carry_out([task("answer", says=500)])]

    assert said == [*range(500), None]


def test_no_two_tasks_want_more_memory_together_than_there_is(pool: Pool) -> None:
    at_work: set[int] = set()

    def tasks() -> Iterator[Task]:
        for number in range(6):
            assert len(at_work) <= 2  # one at work, and this one drawn to wait
            at_work.add(number)
            yield task("answer", number, nbytes=80)

    for given, _ in pool.carry_out(tasks()):
        at_work.discard(given.ask["number"])

    assert not at_work


def test_a_worker_holds_many_small_tasks_and_none_that_its_socket_may_not_take(pool: Pool) -> None:
    pool.memory_bytes = 1 << 30
    drawn: list[int] = []

    def tasks() -> Iterator[Task]:
        for number in range(200):
            drawn.append(number)
            yield Task(ask={"do": "answer", "number": number, "x": "x" * 20_000}, limit_s=30)

    heard = pool.carry_out(tasks())
    next(heard)
    at_first = len(drawn)

    assert len(list(heard)) == 199
    assert 2 <= at_first <= 2 * 3 + 1  # of 20 kB, three to a worker, and one drawn to wait


def test_what_was_done_but_not_told_is_done_anew_when_a_worker_dies(pool: Pool) -> None:
    pool.jobs = 1
    tasks = [*(task("answer", number) for number in range(10)), task("die", 10)]

    words = last_words(pool, [*tasks, *(task("answer", number) for number in range(11, 20))])

    assert sorted(words) == list(range(20))
    assert [number for number, said in words.items() if "skip" in said] == [10]
