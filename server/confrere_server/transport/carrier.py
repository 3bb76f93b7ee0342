"""Tasks to sites and answers back over the SuperLink: sent, sent again when needed, in order.

Answers wait in files until their turn, so a round's memory does not grow with its sites, and they
are handed on in the order of the sites' names, so equal answers give equal weights, bit by bit,
whichever came first.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from flwr.app import MessageType, RecordDict

from confrere_common.arrays import SLACK, most_bytes
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.marks import MOST_MARKS_BYTES
from confrere_common.proposal import Proposal, Standing
from confrere_common.secagg.messages import Reply, Request
from confrere_common.weights import nbytes
from confrere_common.wire import (
    proposal_records,
    read_answer,
    read_reply,
    read_standing_records,
    read_witness,
    request_records,
    task_records,
    with_witness,
)
from confrere_server.transport.superlink import SuperLink

TICK_S = 0.1
"""Pause between two looks at what has come."""

ABSENT_S = 300.0
"""A site that is gone for so long is not waited for, if the round can count without it."""

Head = tuple[int, str]
"""Length and head of an audit log."""


def unheard(site: str) -> None:
    """Pay no heed to when a site's answer comes."""


class Halted(Exception):  # noqa: N818  (somebody asked for it)
    """The operator asked to stop, or the server is going down."""


@dataclass(kw_only=True)
class Errand:
    """A message that one site has not answered yet."""

    node: int
    message: str
    since: str
    """When the node last came online, as known when the message was sent."""

    arrived: bool = False
    """Whether its answer lies here whole."""


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """The transport of one Flower run."""

    link: SuperLink
    run: int
    name: str
    """The coordinator's own id of the run, told with every message."""

    nodes: Callable[[], Mapping[str, int]]
    """Every active site's node; a site may come or be revoked while a round is on."""

    halted: Callable[[], bool]
    head: Callable[[], Head]
    """The server's own audit head, told to every site as a witness."""

    witness: Callable[[str, Head], None]
    """Keeps what a site says of its audit log with an answer, or with another standing."""

    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def online(self) -> set[str]:
        """Return the sites that have been heard lately."""
        nodes = self.nodes()
        return {site for site, node in nodes.items() if self.link.presence(node).online}

    def ask(
        self,
        sites: Sequence[str],
        task: Task,
        within_s: float,
        absent_s: float = ABSENT_S,
        arrived: Callable[[str], None] = unheard,
    ) -> Iterator[Answer]:
        """Yield each site's answer, in order of name; those that are silent in time are absent.

        A site that has been gone for *absent_s* is silent before its time. *arrived* hears of each
        answer when it comes, which may be long before its turn.
        """
        content = with_witness(task_records(task), *self.head())
        size = nbytes(task.weights) or MOST_MARKS_BYTES  # without weights, it asks for no more
        waiting = Waiting(
            carrier=self, content=content, kind=MessageType.TRAIN, absent_s=absent_s,
            at_most=most_bytes(size), arrived=arrived,
        )  # fmt: skip
        ends = self.clock() + within_s
        try:
            waiting.send(sorted(sites))
            for site in sorted(sites):
                if waiting.wait_for(site, ends):
                    found = waiting.take(site)
                    if isinstance(found, RecordDict):
                        self.witness(site, read_witness(found))
                    yield _answer(found, site, task.round)
                    # While the next answer is read, this one must already be gone.
                    del found
        finally:
            waiting.forget()

    def exchange(
        self,
        requests: Mapping[str, Request],
        task: Task | None,
        within_s: float,
        absent_s: float = ABSENT_S,
        arrived: Callable[[str], None] = unheard,
    ) -> Iterator[tuple[str, Reply | Refusal]]:
        """Bring each site its own part of a masked round, and yield replies in order of name.

        The task's arrays are stored once, however many sites are asked.
        """
        shared = None if task is None else task_records(task)
        head = self.head()

        def content(site: str) -> RecordDict:
            return with_witness(request_records(requests[site], shared), *head)

        size = 0 if task is None else nbytes(task.weights)
        waiting = Waiting(
            carrier=self, content=content, kind=MessageType.TRAIN, absent_s=absent_s,
            at_most=most_bytes(size), arrived=arrived,
        )  # fmt: skip
        ends = self.clock() + within_s
        try:
            waiting.send(sorted(requests))
            for site in sorted(requests):
                if waiting.wait_for(site, ends):
                    found = waiting.take(site)
                    if isinstance(found, RecordDict):
                        self.witness(site, read_witness(found))
                    yield site, _reply(found, site)
                    # While the next reply is read, this one must already be gone.
                    del found
        finally:
            waiting.forget()


@dataclass(kw_only=True)
class Proposals:
    """What sites say of a run; nobody is waited for, so a site that hangs keeps no other up."""

    carrier: Carrier
    _out: "Waiting | None" = None
    _last: dict[str, Standing] = field(default_factory=dict)

    def ask(self, proposal: Proposal, sites: Sequence[str]) -> None:
        """Ask those of *sites* that do not owe an answer already."""
        content = with_witness(proposal_records(proposal), *self.carrier.head())
        if self._out is None:
            self._out = Waiting(carrier=self.carrier, content=content, kind="query")
        self._out.content = content
        self._out.send([site for site in sites if site not in self._out.out])

    def come(self) -> dict[str, Standing]:
        """Return what has come since the last time; what cannot be read is asked anew later."""
        said: dict[str, Standing] = {}
        for site, found in self._out.come() if self._out else ():
            with suppress(ExchangeError):
                if isinstance(found, RecordDict):
                    standing = read_standing_records(found)
                    if standing.site == site:
                        said[site] = standing
                        self._keep(standing, read_witness(found))
        return said

    def _keep(self, standing: Standing, head: Head) -> None:
        """Witness the head that came with another standing, not with each that says the same.

        Both sides log the other's head: each would answer each other's row with a row.
        """
        if self._last.get(standing.site) != standing:
            self._last[standing.site] = standing
            self.carrier.witness(standing.site, head)


@dataclass(kw_only=True)
class Waiting:
    """The messages of one question that are out."""

    carrier: Carrier
    content: RecordDict | Callable[[str], RecordDict]
    """For all, or for each site its own."""

    kind: str
    absent_s: float = ABSENT_S
    at_most: int = SLACK
    """Bytes of the largest answer that is read."""

    arrived: Callable[[str], None] = unheard
    """Hears of each answer when it comes, which may be long before its turn."""

    out: dict[str, Errand] = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)
    _gone: dict[int, float] = field(default_factory=dict)
    """Node -> since when it has been away."""

    def send(self, sites: Sequence[str]) -> None:
        """Send to *sites*; those whose node cannot take a message yet are tried again later."""
        link, nodes = self.carrier.link, self.carrier.nodes()
        due = {nodes[site]: site for site in sites if site in nodes}
        since = {node: link.presence(node).since for node in due}
        there = [node for node in due if since[node]]
        sent = self._pushed(there, due)
        for node, site in due.items():
            if node in sent:
                self.out[site] = Errand(node=node, message=sent[node], since=since[node])
        self.unsent = (self.unsent | set(sites)) - set(self.out)

    def _pushed(self, nodes: Sequence[int], names: Mapping[int, str]) -> dict[int, str]:
        """Send to *nodes* and return node -> message."""
        carrier, content = self.carrier, self.content
        if isinstance(content, RecordDict):
            return carrier.link.push(
                carrier.run, nodes, content, kind=self.kind, group=carrier.name
            )
        sent: dict[int, str] = {}
        for node in nodes:
            own = content(names[node])
            sent |= carrier.link.push(carrier.run, [node], own, kind=self.kind, group=carrier.name)
        return sent

    def wait_for(self, site: str, ends: float) -> bool:
        """Return whether the site's answer is here, waiting until *ends*; Halted when told to."""
        while not self._here(site):
            if self.carrier.halted():
                raise Halted
            nodes = self.carrier.nodes()
            if self.carrier.clock() >= ends or site not in nodes or self._absent(nodes[site]):
                return False
            self._send_again()
            self.carrier.pause(TICK_S)
        return True

    def take(self, site: str) -> RecordDict | ExchangeError:
        """Return the site's answer, or why it cannot be read."""
        try:
            return self.carrier.link.take(self.out.pop(site).message, self.at_most)
        except ExchangeError as fault:
            return fault

    def come(self) -> Iterator[tuple[str, RecordDict | ExchangeError]]:
        """Yield the answers that are here, and ask those anew that lost the question."""
        for site in [site for site in self.out if self._here(site)]:
            yield site, self.take(site)
        self._send_again()

    def forget(self) -> None:
        """Wait no longer for anybody."""
        self.carrier.link.forget([errand.message for errand in self.out.values()])

    def _absent(self, node: int) -> bool:
        if self.carrier.link.presence(node).online:
            self._gone.pop(node, None)
            return False
        now = self.carrier.clock()
        return now - self._gone.setdefault(node, now) > self.absent_s

    def _here(self, site: str) -> bool:
        errand = self.out.get(site)
        if errand is None:
            return False
        if not errand.arrived and self.carrier.link.arrived(errand.message):
            errand.arrived = True
            self.arrived(site)
        return errand.arrived

    def _send_again(self) -> None:
        """Ask those anew that lost the question: they came back online after it was sent."""
        link = self.carrier.link
        lost = [
            site
            for site, errand in self.out.items()
            if not self._here(site)
            and (now := link.presence(errand.node)).online
            and now.since != errand.since
        ]
        link.forget([self.out.pop(site).message for site in lost])
        if lost or self.unsent:
            self.send([*lost, *self.unsent])


def _reply(found: RecordDict | ExchangeError, site: str) -> Reply | Refusal:
    if isinstance(found, ExchangeError):
        return Refusal(site=site, round=0, reason=str(found))
    try:
        return read_reply(found)
    except ExchangeError:
        return Refusal(site=site, round=0, reason="its reply is not of this version")


def _answer(found: RecordDict | ExchangeError, site: str, number: int) -> Answer:
    if isinstance(found, ExchangeError):
        return Refusal(site=site, round=number, reason=str(found))
    try:
        answer = read_answer(found)
    except ExchangeError:
        return Refusal(site=site, round=number, reason="its answer is not of this version")
    if answer.site != site:
        return Refusal(site=site, round=number, reason="its answer names another site")
    # It answers this very question: a site that could not read it does not know the round.
    return replace(answer, round=number) if isinstance(answer, Refusal) else answer
