"""The site as Flower sees it: a ClientApp that says its name and answers tasks."""

from collections.abc import Callable
from typing import TypeAlias

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from confrere_client.work import Desk, answer, answer_masked
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Refusal
from confrere_common.log import reason
from confrere_common.wire import (
    answer_records,
    is_masked,
    read_request,
    read_task,
    reply_records,
)

FindDesk: TypeAlias = Callable[[Context], Desk]
"""Flower's context of a node -> what the site works with."""


def client_app(find_desk: FindDesk) -> ClientApp:
    """Return the app that a simulation, or a hospital's daemon, runs."""
    app = ClientApp()

    @app.query()
    def name(message: Message, context: Context) -> Message:
        # No exception may leave: Flower would send its text, which may hold a path.
        try:
            said = ConfigRecord({"site": find_desk(context).site})
        except Exception as fault:
            said = ConfigRecord({"fault": reason(fault)})
        return Message(content=RecordDict({"name": said}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            desk = find_desk(context)
        except Exception as fault:
            lost = Refusal(site="", round=_round(message), reason=reason(fault))
            return Message(content=answer_records(lost), reply_to=message)
        try:
            content = _answered(message.content, desk)
        except ExchangeError as fault:
            given = Refusal(site=desk.site, round=_round(message), reason=str(fault))
            content = answer_records(given)
        return Message(content=content, reply_to=message)

    return app


def _answered(content: RecordDict, desk: Desk) -> RecordDict:
    """Return the answer to a plain task, or to a step of a masked round."""
    if not is_masked(content):
        return answer_records(answer(read_task(content), desk))
    request, task = read_request(content)
    given = answer_masked(request, task, desk)
    return answer_records(given) if isinstance(given, Refusal) else reply_records(given)


def _round(message: Message) -> int:
    """Return the round of an unreadable task: the server writes it on the envelope as well."""
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else 0
