"""The hospital's daemon: one thread that talks to the coordinator, one process that trains.

In order, for whatever comes: is it the code that is installed here; does the policy allow it; has a
person approved it; then train, in the worker; then send what ``work.py`` assembled, from the
outbox. Nothing listens on any port.
"""

import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from confrere_client.daemon import consent
from confrere_client.daemon.errand import Errand, errand_key, may_begin, spool
from confrere_client.daemon.fleet import Incoming, Line, LineCut, RunOver
from confrere_client.daemon.hands import Hands
from confrere_client.daemon.outbox import MaskedUpdate, Outbox, digest_of_update, what_leaves
from confrere_client.daemon.status import Status
from confrere_client.daemon.veiled import answer_step, must_be_seated
from confrere_client.hospital.join import renew_if_due
from confrere_client.hospital.plans import Plan, receive, run_of
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.code import bundle_digest, code_digest
from confrere_common.codes import code_of, sentence_of
from confrere_common.config import Run
from confrere_common.errors import ConfigError, ConfrereError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.log import SAYABLE, reason, without_text
from confrere_common.pki.tls import client_context
from confrere_common.proposal import Proposal, Standing
from confrere_common.secagg.messages import Delivery, Request, digest_of
from confrere_common.storage import atomic_write
from confrere_common.wire import (
    answer_records,
    is_masked,
    read_delivered,
    read_proposal_records,
    read_request,
    read_witness,
    reply_records,
    standing_records,
    with_witness,
)

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""Pause between two signs of life; the server waits a minute for one."""

QUICK_S, CALM_S = 0.3, 2.0
"""Pause between two questions for work: while a run is on, and otherwise."""

QUICK_FOR_S = 120.0
"""How long after a message a run counts as on."""

ASK_RUN_S = 5.0
"""How often a training site asks whether its run still runs."""

LONGEST_PAUSE_S = 20.0
"""The longest wait before the next try to reach the coordinator."""

UNASKED_S = 300.0
"""A round that nobody has asked for since the line came back is given up after so long."""


@dataclass(kw_only=True)
class Daemon:
    """One site at work."""

    site: SiteFolder
    stop: threading.Event = field(default_factory=threading.Event)
    _waiting: Incoming | None = None
    _heard: float = float("-inf")
    _asked_run: float = 0.0
    _connected_at: float = 0.0
    _connected: bool = False
    _status: Status = field(default_factory=Status)
    _worker_under: tuple[bytes, ...] = ()
    """Policy and data sets as they were when the worker was started."""

    _witnessed: tuple[int, str] = (0, "")
    _refused: dict[str, str] = field(default_factory=dict)
    """Plan -> why it was refused when that was last logged."""

    @cached_property
    def hands(self) -> Hands:
        """Return the hold on the worker."""
        return Hands(
            folder=self.site.folder,
            log_file=self.site.folder / "worker.log",
            environment=consent.visible(self._policy()),
        )

    @cached_property
    def outbox(self) -> Outbox:
        """Return what may have to be sent again."""
        return Outbox(folder=self.site.outbox, key=self.site.outbox_key())

    def run(self) -> None:
        """Work until told to stop; a cut line is taken up again, ever more patiently."""
        pause = 1.0
        try:
            while not self.stop.is_set():
                try:
                    self._renew()
                    with self._line() as line:
                        self._serve(line)
                except Exception as fault:  # whatever it was, a hospital's daemon goes on
                    if not isinstance(fault, LineCut | ConfrereError | OSError):
                        log.exception(
                            "something unforeseen; connecting anew", exc_info=without_text(fault)
                        )
                    pause = 1.0 if self._connected else pause
                    self._cut(fault, pause)
                    self.stop.wait(pause * random.uniform(0.7, 1.3))  # noqa: S311  (jitter)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
        finally:
            self.hands.drop()
            self._tell(connected=False, stopped=True)

    def _renew(self) -> None:
        try:
            renew_if_due(self.site.folder)
        except (ConfrereError, OSError) as fault:  # the present certificate may be good for weeks
            log.warning("the certificate could not be renewed: %s", reason(fault))

    def _line(self) -> Line:
        self.site = site = open_site(self.site.folder)  # the server may have moved
        tls = client_context(site.site_chain, site.site_key, site.root)
        return Line(str(site.address), tls, site.node_key())

    def _serve(self, line: Line) -> None:
        node = line.connect(known=self._known_node())
        atomic_write(self.site.folder / "node.json", json.dumps({"node": node}).encode())
        self._connected, self._connected_at = True, time.monotonic()
        # The messages of a connection before this one are asked anew by the server.
        self._waiting = None
        if abs(line.clock_ahead_s) > 60:
            log.warning("this machine's clock is %+.0f s off the server's", -line.clock_ahead_s)
        self._tell(connected=True, clock_off_s=round(-line.clock_ahead_s, 1))
        due = time.monotonic() + 3600
        with line.beating(BEAT_S):
            while not self.stop.is_set() and time.monotonic() < due:  # hourly: certificates, policy
                self._tick(line)

    def _tick(self, line: Line) -> None:
        now = time.monotonic()
        incoming = line.poll()
        if incoming is not None:
            self._heard = now
            self._take(line, incoming)
        try:
            self._look_at_worker(line)
        except RunOver:
            log.info("the run was over before its answer was sent")
            self._waiting = None
        self._tell(connected=True)
        if incoming is None:
            on = now - self._heard < QUICK_FOR_S or self._waiting is not None
            self.stop.wait(QUICK_S if on else CALM_S)

    def _take(self, line: Line, incoming: Incoming) -> None:
        number = 0
        try:
            records = line.fetch(incoming)
            self._witness(read_witness(records))
            if incoming.kind == "query":
                self._propose(line, incoming, read_proposal_records(records))
            elif is_masked(records) and "task" not in records:
                self._step(line, incoming, read_request(records)[0])
            else:
                delivery, task = read_delivered(records)
                number = task.round
                self._task(line, incoming, task, delivery)
        except RunOver:
            log.info("a message came for a run that is over")
        except LineCut:
            raise
        except Exception as fault:  # the boundary: no text of a fault may leave
            log.warning(
                "a message was refused: %s", type(fault).__name__, exc_info=without_text(fault)
            )
            self._refuse(line, incoming, number, code_of(fault))

    def _propose(self, line: Line, incoming: Incoming, proposal: Proposal) -> None:
        said = self._standing(line, incoming, proposal)
        line.reply(incoming, with_witness(standing_records(said), *self._chain.head()))

    def _standing(self, line: Line, incoming: Incoming, proposal: Proposal) -> Standing:
        site = self.site.config.site
        try:
            if proposal.code != code_digest() or line.bundle(incoming.run) != bundle_digest():
                return Standing(site=site, state="refused", code="other-code", images=0)
            if proposal.study != self.site.config.study:
                return Standing(site=site, state="refused", code="task-unreadable", images=0)
            new = not (self.site.plans / proposal.run_id / "proposal.json").exists()
            plan = receive(self.site.folder, proposal)
            must_be_seated(self.site, plan)
            if new:
                self._chain.append("plan came", run=proposal.run_id, digest=plan.digest)
                log.info("a plan came: confrere client status; approve or deny %s", proposal.run_id)
            return self._judge(plan, run_of(proposal))
        except ConfrereError as fault:
            code = code_of(fault)
            if self._refused.get(proposal.run_id) != code:  # it is asked again every few seconds
                self._refused[proposal.run_id] = code
                why = reason(fault) if isinstance(fault, SAYABLE) else sentence_of(code)
                log.warning("plan %s was refused: %s", proposal.run_id, why)
            return Standing(site=site, state="refused", code=code, images=0)

    def _judge(self, plan: Plan, run: Run) -> Standing:
        return consent.judged(self.site, plan, run, paused=self._paused)

    def _step(self, line: Line, incoming: Incoming, request: Request) -> None:
        """Answer a step of a masked round that trains nothing."""
        plan = consent.plan_of_step(self.site, incoming.group)
        if plan is None or line.bundle(incoming.run) != bundle_digest():
            self._refuse(line, incoming, 0, "other-code" if plan else "not-approved")
            return
        if code := self._against(incoming.group):
            self._refuse(line, incoming, 0, code)
            return
        said = answer_step(request, self.site, plan, self._policy(), self._begin_anew)
        kind = type(said).__name__.lower()
        self._chain.append("masked step", run=incoming.group, step=kind, digest=digest_of(said))
        line.reply(incoming, with_witness(reply_records(said), *self._chain.head()))

    def _begin_anew(self) -> None:
        self.hands.drop()  # an older try, whose end would be taken for the new one's
        self._waiting = None

    def _task(self, line: Line, incoming: Incoming, task: Task, delivery: Delivery | None) -> None:
        plan = consent.plan_of_task(self.site, incoming.group, task)
        if plan is None or line.bundle(incoming.run) != bundle_digest():
            self._refuse(line, incoming, task.round, "other-code" if plan else "not-approved")
            return
        said = self._judge(plan, run_of(plan.proposal))
        if said.state != "approved":
            self._refuse(line, incoming, task.round, said.code)
            return
        if code := consent.against_task(self._policy(), run_of(plan.proposal), task):
            self._refuse(line, incoming, task.round, code)
            return
        key = errand_key(plan.proposal.run_id, task, delivery)
        self._waiting = incoming
        if self.hands.errand is not None and self.hands.errand.key == key:
            log.info("round %d was asked for again; it is under way", task.round)
        elif not self._send(line, plan.proposal.run_id, key):
            self._train(line, incoming, task, key, delivery)

    def _train(
        self, line: Line, incoming: Incoming, task: Task, key: str, delivery: Delivery | None
    ) -> None:
        run_id = incoming.group
        if not may_begin(self.site.runs / run_id, task.round, key, task.purpose):
            self._waiting = None
            self._refuse(line, incoming, task.round, "too-often")
            return
        errand = spool(self.site.folder / "spool", run_id, task, key, delivery)
        self._chain.append(f"{task.purpose} begun", run=run_id, round=task.round)
        self._renew_worker()
        self.hands.give(errand, 60 * self._policy().max_round_minutes)
        self._asked_run = time.monotonic()

    def _look_at_worker(self, line: Line) -> None:
        errand = self.hands.errand
        if errand is None:
            return
        said = self.hands.look()
        if said is not None:
            self._ended(line, errand, said)
        elif time.monotonic() - self._asked_run > ASK_RUN_S or self._paused:
            self._asked_run = time.monotonic()
            self._may_go_on(line, errand)

    def _ended(self, line: Line, errand: Errand, said: Mapping[str, Any]) -> None:
        if self._waiting is None:
            return  # it lies in the outbox until it is asked for again
        code = str(said["refused"]) if "refused" in said else self._against(errand.run_id)
        if code:  # a no that came while the last steps were trained holds as well
            self._give_up(line, errand.round, code)
        elif not self._send(line, errand.run_id, errand.key):
            self._give_up(line, errand.round, "internal")

    def _may_go_on(self, line: Line, errand: Errand) -> None:
        """Give up what is being trained when it may no longer be, or nobody wants it."""
        code = self._against(errand.run_id)
        if code:
            log.info("round %d is given up: %s", errand.round, code)
            self._give_up(line, errand.round, code)
        elif self._waiting is not None:
            try:
                line.bundle(self._waiting.run)
            except RunOver:
                log.info("the run was stopped; so is the training")
                self.hands.drop()
                self._waiting = None
        elif time.monotonic() - self._connected_at > UNASKED_S:
            log.info("nobody has asked for round %d again: it is given up", errand.round)
            self.hands.drop()

    def _against(self, run_id: str) -> str:
        return consent.against(self.site, run_id, paused=self._paused)

    def _give_up(self, line: Line, number: int, code: str) -> None:
        if self.hands.errand is not None:
            self.hands.drop()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._refuse(line, waiting, number, code)

    def _send(self, line: Line, run_id: str, key: str) -> bool:
        """Send what lies in the outbox under *key*; False when nothing sound does."""
        incoming, update = self._waiting, self.outbox.get(key)
        if incoming is None or update is None:
            return False
        if isinstance(update, Update) and consent.too_fine(self._policy(), update.description):
            return False
        # Written before it leaves: nothing may leave that the log does not tell.
        facts = {"run": run_id, "round": update.round, "update": digest_of_update(update)}
        if isinstance(update, MaskedUpdate):
            self._chain.append("masked update leaves", entries=len(update.vector), **facts)
            records = reply_records(update.vector)
        else:
            self._chain.append(what_leaves(update), images=update.images, **facts)
            records = answer_records(update)
        with_witness(records, *self._chain.head())
        del update
        sent = line.reply(incoming, records)
        self._chain.append("update sent", bytes=sent, **facts)
        self.outbox.drop_all_but(key)
        self._waiting = None
        return True

    def _refuse(self, line: Line, incoming: Incoming, number: int, code: str) -> None:
        said = Refusal(site=self.site.config.site, round=number, reason=code)
        try:
            self._chain.append("refused", round=number, code=code)
        except OSError as fault:  # a full disk keeps no log, and must not keep the code back
            log.warning("a refusal could not be logged: %s", fault.strerror)
        if incoming.kind == "query":
            given = Standing(site=self.site.config.site, state="refused", code=code, images=0)
            records = standing_records(given)
        else:
            records = answer_records(said)
        with contextlib.suppress(RunOver):
            line.reply(incoming, with_witness(records, *self._chain.head()))

    def _cut(self, fault: Exception, pause: float) -> None:
        log.warning("no line to the coordinator (%s); next try in %.0f s", _said(fault), pause)
        self._connected = False
        self._tell(connected=False, fault=_said(fault))

    @cached_property
    def _chain(self) -> Any:
        return self.site.chain()

    def _witness(self, head: tuple[int, str]) -> None:
        if head[0] and head != self._witnessed:
            self._witnessed = head
            self._chain.append("server head", length=head[0], head=head[1])

    def _policy(self) -> Policy:
        return consent.policy_of(self.site)

    def _renew_worker(self) -> None:
        """End a worker that was started under another policy, or other data sets."""
        files = (self.site.policy, self.site.data)
        now = tuple(path.read_bytes() if path.exists() else b"" for path in files)
        if now != self._worker_under:
            self.hands.drop()
            self.hands.environment = consent.visible(self._policy())
            self._worker_under = now

    @property
    def _paused(self) -> bool:
        return (self.site.folder / "paused").exists()

    def _known_node(self) -> int | None:
        try:
            return int(json.loads((self.site.folder / "node.json").read_bytes())["node"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tell(self, **facts: Any) -> None:
        self._status.tell(self.site.status, self.hands, paused=self._paused, **facts)


def _said(fault: Exception) -> str:
    return str(fault) if isinstance(fault, LineCut | ConfigError) else type(fault).__name__
