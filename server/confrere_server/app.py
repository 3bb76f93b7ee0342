"""The server as Flower sees it: a ServerApp that finds the sites and carries tasks to them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Answer, Ask, Refusal, Task
from confrere_common.secagg.messages import Reply, Request
from confrere_common.wire import read_answer, read_reply, request_records, task_records
from confrere_server.unmask import Carry

POLL_S = 0.02
"""Pause between looking for replies: far below the time of a round's work."""

NAMES_WITHIN_S = 300.0
"""Time in which all sites must say their names before a run."""


def server_app(main: Callable[[Grid], None]) -> ServerApp:
    """Return the app that runs *main* on Flower's grid."""
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:  # noqa: ARG001  (Flower calls it with both)
        main(grid)

    return app


def ask_over(grid: Grid, nodes: Mapping[str, int]) -> Ask:
    """Return the transport over Flower: push to each node, yield each reply as it arrives.

    Flower's own ``send_and_receive`` returns only when all replies are in, so it would hold every
    update at once; here a reply is handed on, folded and dropped.
    """

    def ask(sites: Sequence[str], task: Task) -> Iterator[Answer]:
        content = task_records(task)
        waiting: dict[str | None, str] = {}
        for site in sites:
            key = _push(grid, content, nodes[site], MessageType.TRAIN, str(task.round))
            if key is None:
                yield Refusal(site=site, round=task.round, reason="it cannot be reached")
            else:
                waiting[key] = site
        while waiting:
            for reply in _pull(grid, waiting):
                site = waiting.pop(reply.metadata.reply_to_message_id)
                yield _answer(reply, site, task.round)

    return ask


def carry_over(grid: Grid, nodes: Mapping[str, int]) -> Carry:
    """Return the transport of masked rounds over Flower: to each site its own request."""

    def carry(
        requests: Mapping[str, Request], task: Task | None
    ) -> Iterator[tuple[str, Reply | Refusal]]:
        round = task.round if task is not None else 0
        along = task_records(task) if task is not None else None
        waiting: dict[str | None, str] = {}
        for site, request in requests.items():
            content = request_records(request, along)
            key = _push(grid, content, nodes[site], MessageType.TRAIN, str(round))
            if key is None:
                yield site, Refusal(site=site, round=round, reason="it cannot be reached")
            else:
                waiting[key] = site
        while waiting:
            for message in _pull(grid, waiting):
                site = waiting.pop(message.metadata.reply_to_message_id)
                yield site, _reply(message, site, round)

    return carry


def name_nodes(grid: Grid, expected: int) -> dict[str, int]:
    """Ask every node for its site's name; RoundError unless *expected* answer in time."""
    ends = time.monotonic() + NAMES_WITHIN_S
    while len(nodes := list(grid.get_node_ids())) < expected and time.monotonic() < ends:
        time.sleep(POLL_S)
    empty = RecordDict({"ask": ConfigRecord({"what": "name"})})
    waiting = {_push(grid, empty, node, MessageType.QUERY, "names"): node for node in nodes}
    waiting.pop(None, None)
    names: dict[str, int] = {}
    while waiting and time.monotonic() < ends:
        for reply in _pull(grid, waiting):
            node = waiting.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error() and "site" in reply.content["name"]:
                names[str(reply.content["name"]["site"])] = node
    if len(names) < expected:
        raise RoundError(
            f"{len(names)} of {expected} sites said their name within {NAMES_WITHIN_S:.0f} s: "
            "look at the log of those that are missing."
        )
    return names


def _push(grid: Grid, content: RecordDict, node: int, kind: str, group: str) -> str | None:
    message = Message(content=content, dst_node_id=node, message_type=kind, group_id=group)
    return next(iter(grid.push_messages([message])), None) or None


def _pull(grid: Grid, waiting: Mapping[str | None, object]) -> Iterator[Message]:
    found = list(grid.pull_messages([key for key in waiting if key is not None]))
    if not found:
        time.sleep(POLL_S)
    yield from (m for m in found if m.metadata.reply_to_message_id in waiting)


def _answer(reply: Message, site: str, number: int) -> Answer:
    if reply.has_error():
        return Refusal(site=site, round=number, reason="its app failed; see the site's own log")
    with suppress(ExchangeError):
        answer = read_answer(reply.content)
        if answer.site == site:
            return answer
    return Refusal(site=site, round=number, reason="its answer is not of this version")


def _reply(message: Message, site: str, number: int) -> Reply | Refusal:
    if message.has_error():
        return Refusal(site=site, round=number, reason="its app failed; see the site's own log")
    with suppress(ExchangeError):
        return read_reply(message.content)
    return Refusal(site=site, round=number, reason="its answer is not of this version")
