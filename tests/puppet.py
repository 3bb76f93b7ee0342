"""A site that speaks the real protocol over a real line, and answers what a test wants."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

from flwr.app import RecordDict
from served import tls_of_site

from confrere_client.daemon.fleet import Incoming, Line, LineCut, RunOver
from confrere_client.hospital.site import SiteFolder
from confrere_common.exchange import Task, Update
from confrere_common.proposal import Standing
from confrere_common.wire import answer_records, read_task, standing_records

Answering: TypeAlias = Callable[[Line, Incoming], RecordDict | None]
"""What comes -> what is answered; None for nothing."""


def willing(site: SiteFolder, value: float = 0.25, images: int = 7) -> Answering:
    """Approve every plan, and answer each task with the same small change."""
    name = site.config.site

    def answer(line: Line, incoming: Incoming) -> RecordDict:
        records = line.fetch(incoming)
        if incoming.kind == "query":
            said = Standing(site=name, state="approved", code="", images=images)
            return standing_records(said)
        return answer_records(moved(name, read_task(records), value, images))

    return answer


def moved(name: str, task: Task, value: float, images: int = 7) -> Update:
    delta = {one: tensor * 0 + value for one, tensor in task.weights.items()}
    return Update(site=name, round=task.round, delta=delta, images=images, metrics={"loss": 1.0})


@contextlib.contextmanager
def playing(site: SiteFolder, answer: Answering) -> Iterator[list[str]]:
    """Let *site* answer in a thread; give the kinds of messages that came."""
    done, came = threading.Event(), list[str]()

    def talk() -> None:
        known: int | None = None
        while not done.is_set():
            with (
                contextlib.suppress(LineCut),
                Line(str(site.address), tls_of_site(site), site.node_key()) as line,
            ):
                known = line.connect(known)
                while not done.is_set():
                    with contextlib.suppress(RunOver):
                        hear(line)
            done.wait(0.1)

    def hear(line: Line) -> None:
        incoming = line.poll()
        if incoming is None:
            done.wait(0.05)
            return
        came.append(incoming.kind)
        records = answer(line, incoming)
        if records is not None:
            line.reply(incoming, records)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield came
    finally:
        done.set()
        thread.join()
