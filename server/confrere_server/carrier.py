"""Tasks to sites and answers back over the SuperLink: sent, sent again when needed, in order.

Answers wait in files until their turn, so a round's memory does not grow with its sites, and they
are handed on in the order of the sites' names, so equal answers give equal weights, bit by bit,
whichever came first.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import MessageType, RecordDict

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.proposal import Proposal, Standing
from confrere_common.wire import (
    proposal_records,
    read_answer,
    read_standing_records,
    read_witness,
    task_records,
    with_witness,
)
from confrere_server.superlink import SuperLink

TICK_S = 0.1
"""Pause between two looks at what has come."""

Head = tuple[int, str]
"""Length and head of an audit log."""


class Halted(Exception):  # noqa: N818  (somebody asked for it)
    """The operator asked to stop, or the server is going down."""


@dataclass(kw_only=True)
class Errand:
    """A message that one site has not answered yet."""

    node: int
    message: str
    since: str
    """When the node last came online, as known when the message was sent."""


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """The transport of one Flower run."""

    link: SuperLink
    run: int
    nodes: Callable[[], Mapping[str, int]]
    """Every active site's node; a site may come or be revoked while a round is on."""

    halted: Callable[[], bool]
    head: Callable[[], Head]
    """The server's own audit head, told to every site as a witness."""

    witness: Callable[[str, Head], None]
    """Keeps what a site says of its audit log."""

    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def online(self) -> set[str]:
        """Return the sites that have been heard lately."""
        nodes = self.nodes()
        return {site for site, node in nodes.items() if self.link.presence(node).online}

    def propose(
        self, proposal: Proposal, sites: Sequence[str], within_s: float
    ) -> dict[str, Standing]:
        """Return what the sites say of *proposal* in time; the silent are absent."""
        said: dict[str, Standing] = {}
        for site, found in self._ask(proposal_records(proposal), "query", sites, within_s):
            if isinstance(found, RecordDict):
                try:
                    standing = read_standing_records(found)
                except ExchangeError:
                    continue
                if standing.site == site:
                    said[site] = standing
        return said

    def ask(self, sites: Sequence[str], task: Task, within_s: float) -> Iterator[Answer]:
        """Yield each site's answer, in order of name; those that are silent in time are absent."""
        content = task_records(task)
        for site, found in self._ask(content, MessageType.TRAIN, sites, within_s):
            yield _answer(found, site, task.round)
            # While the next answer is read, this one must already be gone.
            del found

    def _ask(
        self, content: RecordDict, kind: str, sites: Sequence[str], within_s: float
    ) -> Iterator[tuple[str, RecordDict | ExchangeError]]:
        rounds = Waiting(carrier=self, content=with_witness(content, *self.head()), kind=kind)
        ends = self.clock() + within_s
        try:
            rounds.send(sorted(sites))
            for site in sorted(sites):
                if rounds.wait_for(site, ends):
                    yield site, rounds.take(site)
        finally:
            self.link.forget([errand.message for errand in rounds.out.values()])


@dataclass(kw_only=True)
class Waiting:
    """The messages of one question that are out."""

    carrier: Carrier
    content: RecordDict
    kind: str
    out: dict[str, Errand] = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)

    def send(self, sites: Sequence[str]) -> None:
        """Send to *sites*; those whose node cannot take a message yet are tried again later."""
        link, nodes = self.carrier.link, self.carrier.nodes()
        due = {nodes[site]: site for site in sites if site in nodes}
        since = {node: link.presence(node).since for node in due}
        there = [node for node in due if since[node]]
        sent = link.push(self.carrier.run, there, self.content, kind=self.kind, group="")
        for node, site in due.items():
            if node in sent:
                self.out[site] = Errand(node=node, message=sent[node], since=since[node])
        self.unsent = (self.unsent | set(sites)) - set(self.out)

    def wait_for(self, site: str, ends: float) -> bool:
        """Return whether the site's answer is here, waiting until *ends*; Halted when told to."""
        while not self._here(site):
            if self.carrier.halted():
                raise Halted
            if self.carrier.clock() >= ends or site not in self.carrier.nodes():
                return False
            self._send_again()
            self.carrier.pause(TICK_S)
        return True

    def take(self, site: str) -> RecordDict | ExchangeError:
        """Return the site's answer, or why it cannot be read."""
        try:
            found = self.carrier.link.take(self.out.pop(site).message)
        except ExchangeError as fault:
            return fault
        self.carrier.witness(site, read_witness(found))
        return found

    def _here(self, site: str) -> bool:
        errand = self.out.get(site)
        return errand is not None and self.carrier.link.arrived(errand.message)

    def _send_again(self) -> None:
        """Ask those anew that lost the question: they came back online after it was sent."""
        link = self.carrier.link
        lost = [
            site
            for site, errand in self.out.items()
            if not link.arrived(errand.message)
            and (now := link.presence(errand.node)).online
            and now.since != errand.since
        ]
        link.forget([self.out.pop(site).message for site in lost])
        if lost or self.unsent:
            self.send([*lost, *self.unsent])


def _answer(found: RecordDict | ExchangeError, site: str, number: int) -> Answer:
    if isinstance(found, ExchangeError):
        return Refusal(site=site, round=number, reason=str(found))
    try:
        answer = read_answer(found)
    except ExchangeError:
        return Refusal(site=site, round=number, reason="its answer is not of this version")
    if answer.site != site:
        return Refusal(site=site, round=number, reason="its answer names another site")
    return answer
