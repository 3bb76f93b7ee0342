"""A run at the server: call a cohort, fold its answers as they come, step, save, and again."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from confrere_common.config import Run
from confrere_common.errors import RoundError
from confrere_common.exchange import Answer, Ask, Refusal, Task, Update
from confrere_common.privacy.independence import must_stand_alone
from confrere_common.weights import Weights, finite, nbytes
from confrere_server.admission import Gate, Verdict, after_round, capped, judged, surely_uncut
from confrere_server.cohort import draw_cohort, needed
from confrere_server.joining import must_join
from confrere_server.masked import Veil, join_masked
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.rule import RULES
from confrere_server.step import STEPS, StepState, by_weight
from confrere_server.store import ServerState

VOID_ROUNDS = 3
"""After so many void rounds in succession the run stops: something is wrong with most sites."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A round has begun."""

    round: int
    cohort: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A site's part in a round is settled."""

    round: int
    record: SiteRecord


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A round is over and saved."""

    record: RoundRecord


Event: TypeAlias = Asked | Answered | Closed
Observe: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What stays the same over the rounds of one repetition of a run."""

    run: Run
    text: str
    """The run as canonical JSON, as sites receive it."""

    seed: int
    sites: Sequence[str]
    ask: Ask
    save: Callable[[ServerState], None]
    observe: Observe
    enrolled: Mapping[str, int] = field(default_factory=dict)
    """Site -> images that it enrolled with; who is not named may say any number."""

    enough: Callable[[ServerState], bool] = lambda _: False
    """Whether to stop before the last round."""

    veil: Veil | None = None
    """How masked rounds are held; only a run with secure aggregation needs it."""


@dataclass
class Tally:
    """What is noted while answers stream through a rule."""

    round: int
    gate: Gate
    records: list[SiteRecord] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    """Without the updates, which are gone when they are joined."""

    bytes_up: int = 0
    bytes_down: int = 0


def run_rounds(study: Study, state: ServerState) -> ServerState:
    """Do the rounds that *state* lacks, saving after each; RoundError when sites keep failing."""
    must_stand_alone(study.run)
    must_join(study.run)
    while state.round < study.run.federation.rounds and not study.enough(state):
        state = one_round(study, state)
        study.save(state)
        study.observe(Closed(record=state.records[-1]))
        _must_not_be_void(state.records, study.run.federation.rounds)
    _must_not_be_void(state.records, study.run.federation.rounds)
    return state


def one_round(study: Study, state: ServerState) -> ServerState:
    """Return the state after one more round; without quorum the weights stay as they are."""
    began = time.perf_counter()
    number, federation = state.round + 1, study.run.federation
    sites = _not_suspended(study.sites, state.repute.suspended)
    cohort = draw_cohort(sites, federation.cohort, number, study.seed)
    study.observe(Asked(round=number, cohort=cohort))
    task = Task(run=study.text, round=number, seed=study.seed, weights=state.weights)
    tally = Tally(round=number, gate=_gate(study, state))

    if study.run.secure_aggregation is not None:
        joined, void = _join_masked(study, tally, task, cohort)
    else:
        joined, void = _join(study, tally, task, cohort)
    weights, step = state.weights, state.step
    if joined is not None:
        weights, step, void = _stepped(study, state, joined)
    record = RoundRecord(
        round=number,
        sites=tuple(sorted(tally.records, key=lambda site: site.site)),
        bytes_up=tally.bytes_up,
        bytes_down=tally.bytes_down + nbytes(state.weights) * len(cohort),
        seconds=time.perf_counter() - began,
        void=void,
    )
    return ServerState(
        round=number,
        weights=weights,
        step=step,
        records=(*state.records, record),
        repute=after_round(state.repute, tally.verdicts, number, federation.limits),
    )


def _not_suspended(sites: Sequence[str], suspended: Sequence[str]) -> list[str]:
    left = [site for site in sites if site not in suspended]
    if sites and not left:
        raise RoundError(
            f"all sites are suspended, since their updates were left out too often: "
            f"{', '.join(suspended)}. See the rounds' records for why, mend it, and clear them."
        )
    return left


def _gate(study: Study, state: ServerState) -> Gate:
    limits = study.run.federation.limits
    return Gate(template=state.weights, limits=limits, repute=state.repute, enrolled=study.enrolled)


def _stepped(study: Study, state: ServerState, joined: Weights) -> tuple[Weights, StepState, str]:
    """Return weights and step state after *joined*, which is used up: of each, one lies here."""
    named = study.run.federation.step
    step, config = STEPS.member(named.name), STEPS.configure(named)
    left = joined if isinstance(joined, dict) else dict(joined)
    weights: dict[str, Tensor] = {}
    remembered: dict[str, Tensor] = {}
    known = by_weight(state.step)
    for name, tensor in state.weights.items():
        moved, kept = step({name: tensor}, {name: left.pop(name)}, known.get(name, {}), config)
        weights |= moved
        remembered |= kept
    if finite(weights) and finite(remembered):
        return weights, remembered, ""
    return state.weights, state.step, "the joined update is too large: weights would overflow"


def _join(
    study: Study, tally: Tally, task: Task, cohort: Sequence[str]
) -> tuple[Weights | None, str]:
    federation = study.run.federation
    valid = _admit(study, tally, study.ask(cohort, task), cohort)
    try:
        config, rule = RULES.configure(federation.rule), RULES.member(federation.rule.name)
        if rule.by_images:  # the others let all sites weigh the same
            valid = capped(valid, federation.limits.weight_share, _sure(study, cohort))
        # Where sites only tell what they have, there is nothing to join: they are admitted below.
        joined = {} if study.run.stage == "describe" else rule(valid, config, task.weights)
    except RoundError as fault:
        joined, void = None, str(fault)
    else:
        void = ""
    for _ in valid:  # a rule that gave up early must not hide who answered
        pass
    return _with_quorum(joined, void, tally, cohort, federation.quorum)


def _sure(study: Study, cohort: Sequence[str]) -> frozenset[str]:
    """Return the sites of which it is known before they answer that their weight is not cut."""
    known = {site: study.enrolled[site] for site in cohort if site in study.enrolled}
    least = needed(len(cohort), study.run.federation.quorum)
    if len(known) < len(cohort):
        return frozenset()
    return surely_uncut(known, study.run.federation.limits.weight_share, least)


def _join_masked(
    study: Study, tally: Tally, task: Task, cohort: Sequence[str]
) -> tuple[Weights | None, str]:
    federation = study.run.federation
    if study.veil is None:
        raise RoundError("this server can't hold rounds under secure_aggregation: leave it out.")
    found = join_masked(study.run, task, cohort, study.veil, study.enrolled)
    tally.bytes_up, tally.bytes_down = found.bytes_up, found.bytes_down
    for record in found.records:
        _note(study, tally, record)
    if found.joined is None:
        return None, found.void
    rule = RULES.member(federation.rule.name)
    joined = rule([found.joined], RULES.configure(federation.rule), task.weights)
    return _with_quorum(joined, "", tally, cohort, federation.quorum)


def _with_quorum(
    joined: Weights | None, void: str, tally: Tally, cohort: Sequence[str], quorum: float
) -> tuple[Weights | None, str]:
    valid = sum(1 for record in tally.records if not record.refused)
    due = needed(len(cohort), quorum)
    if valid < due:
        return None, f"{valid} of {len(cohort)} sites answered validly; the quorum is {due}"
    return joined, void


def _admit(
    study: Study, tally: Tally, answers: Iterable[Answer], cohort: Sequence[str]
) -> Iterator[Update]:
    """Yield valid updates, one for each site of the cohort, noting every answer and silence."""
    waiting = set(cohort)
    for answer in answers:
        if answer.site not in waiting or answer.round != tally.round:
            continue  # unasked, a second time, or late from an earlier round
        waiting.discard(answer.site)
        record, update = _judge(answer, tally)
        _note(study, tally, record)
        if update is not None:
            tally.bytes_up += nbytes(tally.gate.template)  # it has the very names, shapes and types
            yield update  # handed over: the rule may have used it up when this goes on
        # While the next answer is made, this one must already be gone: else two are held.
        del answer, update
    for site in sorted(waiting):
        _note(study, tally, SiteRecord(site=site, refused="it did not answer in time"))


def _note(study: Study, tally: Tally, record: SiteRecord) -> None:
    tally.records.append(record)
    study.observe(Answered(round=tally.round, record=record))


def _judge(answer: Answer, tally: Tally) -> tuple[SiteRecord, Update | None]:
    if isinstance(answer, Refusal):
        return SiteRecord(site=answer.site, refused=answer.reason), None
    verdict = judged(answer, tally.gate)
    tally.verdicts.append(replace(verdict, update=None))
    if verdict.update is None:
        left_out = f"its update was left out: {verdict.fault}"
        return SiteRecord(site=answer.site, refused=left_out), None
    told = {name: float(value) for name, value in answer.metrics.items() if math.isfinite(value)}
    return SiteRecord(site=answer.site, images=answer.images, metrics=told), verdict.update


def _must_not_be_void(records: Sequence[RoundRecord], rounds: int) -> None:
    last = records[-VOID_ROUNDS:]
    enough = len(last) == VOID_ROUNDS or len(last) == rounds
    if last and enough and all(record.void for record in last):
        refusals = sorted({site.refused for site in last[-1].sites if site.refused})
        raise RoundError(
            f"{len(last)} rounds in succession had no result, the last: {last[-1].void}. "
            f"What the sites said: {'; '.join(refusals) or 'nothing'}. The rounds before are "
            "saved; mend the cause and use --resume, or start anew with other "
            "settings in another --out."
        )
