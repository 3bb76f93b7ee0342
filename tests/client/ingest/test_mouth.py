import json
import tempfile
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from confrere_client.ingest.working.mouth import COUNTER_BYTES, LONGEST, Mouth

Ask = dict[str, Any]


def counted(ask: Ask) -> Iterator[Ask]:
    yield from ({"number": number, "text": ask["text"]} for number in range(ask["says"]))
    yield {"done": True}


def messages(asks: list[Ask]) -> list[list[Ask]]:
    ours, theirs = Pipe()
    with tempfile.TemporaryFile() as counter, ours, theirs:
        counter.truncate(COUNTER_BYTES)
        Mouth(theirs, counter.fileno()).answer(asks, counted)
        return list(_heard(ours))


def _heard(line: Connection) -> Iterator[list[Ask]]:
    while line.poll():
        yield json.loads(line.recv_bytes())


def test_answers_to_small_tasks_share_a_message() -> None:
    heard = messages([{"says": 1, "text": ""}] * 3)

    assert sum(len(some) for some in heard) == 6
    assert len(heard) < 6


def test_a_task_of_which_a_part_was_told_is_told_whole_before_the_next() -> None:
    long, short = {"says": 3, "text": "x" * LONGEST}, {"says": 0, "text": ""}

    heard = messages([short, long, short])

    ends = [some[-1] for some in heard]
    assert ends[-2:] == [{"done": True}, {"done": True}]
    assert [said for some in heard for said in some] == [
        said for ask in (short, long, short) for said in counted(ask)
    ]
    assert heard[-1] == [{"done": True}]
