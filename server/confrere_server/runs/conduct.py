"""One submitted run, from its first proposal to its release: gathers sites, calls rounds, survives.

Everything that a restart needs lies in the run's folder: the order, the checkpoints, which sites
have approved. A server that was killed starts here again and does the round anew that was cut off;
the sites answer it from their outboxes.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from confrere_common.code import code_digest
from confrere_common.config import Run
from confrere_common.errors import RoundError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.privacy.independence import must_stand_alone
from confrere_common.proposal import Proposal, Standing
from confrere_common.secagg.messages import Reply, Request
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.weights import nbytes, weights_digest
from confrere_server.admission import Repute, cleared
from confrere_server.description.collecting import asked_of, heard_into, most_told
from confrere_server.joining import must_join
from confrere_server.masked import Veil
from confrere_server.record import RoundRecord
from confrere_server.rounds import Answered, Asked, Event, Study, one_round
from confrere_server.runs.choosing import Judges
from confrere_server.runs.deadline import deadline_s
from confrere_server.runs.outcome import (
    FOR_NOW,
    NO_LABELS,
    all_failed,
    is_spoilt,
    must_be_enough,
    must_have_come_to_something,
    told,
    why_failed,
)
from confrere_server.runs.queue import Folder, Order
from confrere_server.runs.start_weights import fresh
from confrere_server.store import ServerState, newest_state, save_state
from confrere_server.transport.carrier import ABSENT_S, Carrier, Halted, Proposals, unheard
from confrere_server.unmask import Carry

log = logging.getLogger(__name__)

PROPOSE_EVERY_S = 3.0
"""How often sites that have not decided are asked again."""

REFUSED_ROUNDS = 3
"""After so many rounds in succession that the sites themselves refused, the run has failed."""

STEP_S = 600.0
"""Longest wait for a step of a masked round that trains nothing."""

VOID_ROUNDS = 5
"""After so many rounds in succession without a result because of what sites answered, the run has
failed: those behind it in the queue must have their turn."""

Note = Callable[..., Any]
"""``note(event, **facts)``: a line in the audit log."""


@dataclass(kw_only=True)
class Conductor:
    """Carries one run out."""

    folder: Folder
    study: str
    carrier: Carrier
    note: Note
    halted: Callable[[], bool]
    closed: int = 0
    """The last round of this run that the audit log tells to be closed."""

    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _said: dict[str, Standing] = field(default_factory=dict)
    _proposed_at: float = float("-inf")
    _untaught: set[str] = field(default_factory=set)
    """Sites without anything marked for the task: they are asked to train no more."""

    _last_answer_at: float = 0.0
    _began_at: float = 0.0
    _refused: int = 0  # these two: void rounds in succession, over all of the run's turns
    _spoilt: int = 0
    _came_at: dict[str, float] = field(default_factory=dict)
    """When each site's answer to the round came, which may be long before it is read."""

    @cached_property
    def order(self) -> Order:
        """Return what was submitted."""
        return self.folder.order

    @cached_property
    def _proposals(self) -> Proposals:
        return Proposals(carrier=self.carrier)

    @cached_property
    def run(self) -> Run:
        """Return the run."""
        return self.order.parsed()

    def carry_out(self) -> ServerState:
        """Do all rounds that are left and return the last state; Halted when told to stop."""
        must_stand_alone(self.run)
        must_join(self.run)
        state = self._start()
        self._judges.evaluate(state)  # the server may have been killed at just that
        while state.round < self.run.federation.rounds and not self._judges.enough(state):
            sites, state = self._gather(state)
            new = self._round(sites, state)
            record = new.records[-1]
            self._ask_anew(record)
            if not record.void:
                self._refused = self._spoilt = 0
                state = new
                del new  # weights of two rounds at once are a model too many
                self._save(state)
                self._judges.evaluate(state)
                continue
            self._refused = self._refused + 1 if all_failed(record, sites) else 0
            self._spoilt += is_spoilt(record, self.run.federation.quorum)
            state = self._spent(new) if self._masked else self._remember(state, new.repute)
            if self._refused >= REFUSED_ROUNDS or self._spoilt >= VOID_ROUNDS:
                raise RoundError(why_failed(record, max(self._refused, self._spoilt)))
            self._void(record, state)
        must_have_come_to_something(state.records, VOID_ROUNDS)
        return self._judges.finished(state)

    @property
    def _masked(self) -> bool:
        return self.run.secure_aggregation is not None

    def _spent(self, state: ServerState) -> ServerState:
        """Save a void masked round: its number is used up, since no site masks twice for one."""
        self._save(state)
        return state

    def _remember(self, state: ServerState, repute: Repute) -> ServerState:
        """Keep what is known of sites: else who spoils each void round is never suspended."""
        known, state = state.repute, replace(state, repute=repute)
        if (repute.offences, repute.suspended) != (known.offences, known.suspended):
            keep, root = self.run.federation.keep_checkpoints, self.folder.path / "checkpoints"
            save_state(root, state, digest=self.order.digest, keep=keep)
        return state

    def _start(self) -> ServerState:
        found = newest_state(self.folder.path / "checkpoints", digest=self.order.digest)
        standing = self.folder.standing
        for site, plain in standing.sites.items():
            # Approvals outlive the server: a site that is away is still part of its run.
            if "standing" in plain:
                self._said[site] = Standing(
                    site=site, state=plain["standing"], code=plain["code"],
                    images=plain["images"], privacy=plain.get("privacy", {}),
                )  # fmt: skip
            if plain.get("untaught"):
                self._untaught.add(site)
        if found is not None and found.round > self.closed:
            self._note_closed(found)  # the server was killed between saving and saying so
        return found or fresh(self.folder, self.run)

    def _gather(self, state: ServerState) -> tuple[list[str], ServerState]:
        """Return the sites of the next round, waiting until enough have approved and are there."""
        while True:
            if self.halted():
                raise Halted
            state = self._cleared(state)
            self._hear()
            self._propose(state)
            approved = {site for site, said in self._said.items() if said.state == "approved"}
            approved &= self._asked(state) & self._invited
            there = approved & self.carrier.online()
            if self.run.federation.quorum == 1.0 and self._begun(state):
                # No round without all: those that are away, or pause, are waited for.
                there = set() if self._pausing(state) else approved
            if self._masked and self.run.federation.quorum == 1.0:
                # A masked round that is void is used up: all must be there before it begins.
                there = approved if approved <= self.carrier.online() else set()
            if len(there) >= self.run.federation.min_sites:
                return sorted(there), state
            self._stand(state, "gathering", f"{len(there)} of {self._least} sites are there")
            self.pause(0.5)

    def _cleared(self, state: ServerState) -> ServerState:
        repute = state.repute
        for site in self.folder.taken_clearances():
            self.note("cleared", run=self.order.id, site=site)
            repute = cleared(repute, site)
        return self._remember(state, repute)  # the run may give way before its next round

    def _pausing(self, state: ServerState) -> list[str]:
        """Return the sites of the last round that do not take part just now, and may again."""
        last = state.records[-1].sites if state.records else ()
        names = [record.site for record in last if record.site in self._asked(state)]
        return [n for n in names if n not in self._said or self._said[n].state == "waiting"]

    def _asked(self, state: ServerState) -> set[str]:
        """Return the sites that may be asked to train; RoundError if the others leave too few."""
        nodes = set(self.carrier.nodes())
        suspended, untaught = set(state.repute.suspended) & nodes, self._untaught & nodes
        left = nodes - suspended - untaught
        must_be_enough(len(left), self._least, suspended, untaught)
        return left

    @property
    def _invited(self) -> set[str]:
        """Return the sites that may be asked: all, or those whose keys the run's plan pins."""
        nodes = set(self.carrier.nodes())
        return nodes & set(self.order.roster) if self._masked else nodes

    @property
    def _least(self) -> int:
        return self.run.federation.min_sites

    def _begun(self, state: ServerState) -> bool:
        return state.round > 0 or self.folder.standing.state == "training"

    def _propose(self, state: ServerState) -> None:
        if self.clock() - self._proposed_at < PROPOSE_EVERY_S:
            return
        nodes = self.carrier.nodes()
        ask = [
            site
            for site in sorted(self.carrier.online() & self._invited)
            if site not in self._said or self._said[site].state != "approved"
        ]
        if ask:
            tells = self.run.stage == "describe"
            size = most_told(asked_of(self.run)) if tells else nbytes(state.weights)
            proposal = Proposal(
                run_id=self.order.id, study=self.study, run=self.order.run, code=code_digest(),
                sites=len(nodes), bytes_down=size, bytes_up=size, seed=self.run.seeds[0],
                roster=self.order.roster,
            )  # fmt: skip
            self._proposals.ask(proposal, ask)
        self._proposed_at = self.clock()

    def _hear(self) -> None:
        """Take note of what sites have said of the run meanwhile."""
        for site, standing in self._proposals.come().items():
            if self._said.get(site) != standing:
                facts = {"state": standing.state, "code": standing.code}
                self.note("standing", run=self.order.id, site=site, **facts)
            self._said[site] = standing

    def _round(self, sites: Sequence[str], state: ServerState) -> ServerState:
        self._began_at = self._last_answer_at = self.clock()
        self._came_at = {}
        self._stand(state, "training")
        within, absent = self._within_s, ABSENT_S
        if self.run.federation.quorum == 1.0:
            within, absent = self.run.federation.deadline_s, float("inf")

        def ask(cohort: Sequence[str], task: Task) -> Iterator[Answer]:
            yield from self._told(self.carrier.ask(cohort, task, within, absent, self._came))

        def carry(
            requests: Mapping[str, Request], task: Task | None
        ) -> Iterator[tuple[str, Reply | Refusal]]:
            long, heard = (within, self._came) if task else (min(within, STEP_S), unheard)
            yield from self.carrier.exchange(requests, task, long, absent, heard)

        study = Study(
            run=self.run, text=self.order.run, seed=self.run.seeds[0], sites=sites, ask=ask,
            save=self._save, observe=self._observe, enrolled=self._enrolled(),
            veil=self._veil(carry),
        )  # fmt: skip
        return one_round(study, state)

    def _told(self, answers: Iterable[Answer]) -> Iterable[Answer]:
        """Return answers as they come; what sites tell of their images is kept aside."""
        if self.run.stage != "describe":
            return answers
        return heard_into(self.folder.path, answers, asked_of(self.run))

    @cached_property
    def _judges(self) -> Judges:
        return Judges(
            folder=self.folder, there=self._judging, online=self.carrier.online, note=self.note,
            ask=lambda sites, task: self.carrier.ask(sites, task, self._within_s),
            stand=lambda state, why: self._stand(state, "training", why),
        )  # fmt: skip

    @property
    def _within_s(self) -> float:
        return deadline_s(self.folder.standing.paces_s, self.run.federation.deadline_s)

    def _judging(self, state: ServerState) -> dict[str, int]:
        """Return the sites that may be asked what a model scores, with what each enrolled with."""
        approved = {site for site, said in self._said.items() if said.state == "approved"}
        there = (approved & self._invited) - set(state.repute.suspended)
        return {site: self._said[site].images for site in sorted(there)}

    def _veil(self, carry: Carry) -> Veil:
        roster = PinnedRoster(self.order.roster)
        return Veil(carry=carry, verify=roster.verify, roster=roster.digest, attempt=time.time_ns)

    def _enrolled(self) -> dict[str, int]:
        """Return the images that each site approved with: an update that names others is out."""
        said = self._said.items()
        return {s: one.images for s, one in said if one.state == "approved" and one.images > 0}

    def _came(self, site: str) -> None:
        """Note when an answer came: the one before it in the alphabet may hang until the end."""
        self._came_at[site] = self.clock()
        self._live({site: {"answered": True}})

    def _observe(self, event: Event) -> None:
        if isinstance(event, Asked):
            self.note("asked", run=self.order.id, round=event.round, sites=",".join(event.cohort))
            self._live({site: {"round": event.round, "answered": False} for site in event.cohort})
        elif isinstance(event, Answered):
            record = event.record
            facts = {"round": event.round, "site": record.site, "images": record.images}
            self.note("answered", run=self.order.id, refused=record.refused, **facts)
            if not record.refused:
                came = self._came_at.get(record.site, self.clock())
                self._last_answer_at = max(self._last_answer_at, came)
            loss = record.metrics.get("loss")
            self._live(
                {record.site: {"answered": True, "refused": told(record.refused), "loss": loss}}
            )

    def _live(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        standing = self.folder.standing
        sites = {name: dict(site) for name, site in standing.sites.items()}
        for site, change in changes.items():
            sites[site] = {**sites.get(site, {}), **change}
        self.folder.stand(replace(standing, sites=sites))

    def _ask_anew(self, record: RoundRecord) -> None:
        """Ask those sites what they think of the run that refused it and not the round."""
        for site in record.sites:
            if site.refused in FOR_NOW:
                self._said.pop(site.site, None)
            if site.refused == NO_LABELS:
                self._untaught.add(site.site)
                self._live({site.site: {"untaught": True}})

    def _void(self, record: RoundRecord, state: ServerState) -> None:
        self.note("void", run=self.order.id, round=record.round, why=record.void)
        next_ = "the next one is held" if self._masked else "it is held again"
        log.warning("round %d of %s: %s; %s", record.round, self.order.id, record.void, next_)
        self._stand(state, "training", f"round {record.round} is void, {next_}: {record.void}")
        self.pause(PROPOSE_EVERY_S)

    def _save(self, state: ServerState) -> None:
        keep = self.run.federation.keep_checkpoints
        save_state(self.folder.path / "checkpoints", state, digest=self.order.digest, keep=keep)
        record = state.records[-1]
        self._note_closed(state)
        paces = self.folder.standing.paces_s
        if not record.void:  # how long a round takes is learned from those that had a result
            pace = max(self._last_answer_at - self._began_at, 1e-3)
            paces = (*paces, pace)[-20:]
        left = self.run.federation.rounds - state.round
        self._stand(
            state,
            "training",
            paces_s=paces,
            loss=record.loss,
            eta_s=left * sum(paces) / len(paces) if paces else None,
            bytes_up=sum(done.bytes_up for done in state.records),
            bytes_down=sum(done.bytes_down for done in state.records),
        )

    def _note_closed(self, state: ServerState) -> None:
        self.closed = state.round
        if state.records[-1].void:
            return
        joined = [site.site for site in state.records[-1].sites if not site.refused]
        digest = weights_digest(state.weights)
        facts = {"round": state.round, "weights": digest, "sites": ",".join(joined)}
        self.note("closed", run=self.order.id, **facts)

    def _stand(self, state: ServerState, name: Any, why: str = "", **more: Any) -> None:
        old = self.folder.standing
        sites = {site: dict(plain) for site, plain in old.sites.items()}
        online = self.carrier.online()
        for site in self.carrier.nodes():
            said = self._said.get(site)
            sites[site] = {
                **sites.get(site, {}),
                "standing": said.state if said else "waiting",
                "code": said.code if said else "",
                "images": said.images if said else 0,
                "privacy": dict(said.privacy) if said else {},
                "online": site in online,
            }
        since = old.since if old.state == name else f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        now = {"state": name, "why": why, "round": state.round, "sites": sites, "since": since}
        new = replace(old, rounds=self.run.federation.rounds, **{**now, **more})
        if new != old:
            self.folder.stand(new)
