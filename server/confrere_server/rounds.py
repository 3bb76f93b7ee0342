"""A run at the server: call a cohort, fold its answers as they come, step, save, and again."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from confrere_common.config import Run
from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Answer, Ask, Refusal, Task, Update
from confrere_common.weights import Weights, finite, must_fit, nbytes
from confrere_server.cohort import draw_cohort, needed
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.rule import RULES
from confrere_server.step import STEPS, StepState
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


@dataclass
class Tally:
    """What is noted while answers stream through a rule."""

    round: int
    template: Weights
    records: list[SiteRecord] = field(default_factory=list)
    bytes_up: int = 0


def run_rounds(study: Study, state: ServerState) -> ServerState:
    """Do the rounds that *state* lacks, saving after each; RoundError when sites keep failing."""
    while state.round < study.run.federation.rounds:
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
    cohort = draw_cohort(study.sites, federation.cohort, number, study.seed)
    study.observe(Asked(round=number, cohort=cohort))
    task = Task(run=study.text, round=number, seed=study.seed, weights=state.weights)
    tally = Tally(round=number, template=state.weights)

    joined, void = _join(study, tally, study.ask(cohort, task), cohort)
    weights, step = state.weights, state.step
    if joined is not None:
        weights, step, void = _stepped(study, state, joined)
    record = RoundRecord(
        round=number,
        sites=tuple(sorted(tally.records, key=lambda site: site.site)),
        bytes_up=tally.bytes_up,
        bytes_down=nbytes(state.weights) * len(cohort),
        seconds=time.perf_counter() - began,
        void=void,
    )
    return ServerState(round=number, weights=weights, step=step, records=(*state.records, record))


def _stepped(study: Study, state: ServerState, joined: Weights) -> tuple[Weights, StepState, str]:
    named = study.run.federation.step
    weights, step = STEPS.member(named.name)(
        state.weights, joined, state.step, STEPS.configure(named)
    )
    if finite(weights) and finite(step):
        return weights, step, ""
    return state.weights, state.step, "the joined update is too large: weights would overflow"


def _join(
    study: Study, tally: Tally, answers: Iterable[Answer], cohort: Sequence[str]
) -> tuple[Weights | None, str]:
    federation = study.run.federation
    valid = _admit(study, tally, answers, cohort)
    try:
        config = RULES.configure(federation.rule)
        joined = RULES.member(federation.rule.name)(valid, config)
    except RoundError as fault:
        joined, void = None, str(fault)
    else:
        void = ""
    for _ in valid:  # a rule that gave up early must not hide who answered
        pass
    return _with_quorum(joined, void, tally, cohort, federation.quorum)


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
        record, update = _judge(answer, tally.template)
        _note(study, tally, record)
        if update is not None:
            tally.bytes_up += nbytes(update.delta)
            yield update
        # While the next answer is made, this one must already be gone: else two are held.
        del answer, update
    for site in sorted(waiting):
        _note(study, tally, SiteRecord(site=site, refused="it did not answer in time"))


def _note(study: Study, tally: Tally, record: SiteRecord) -> None:
    tally.records.append(record)
    study.observe(Answered(round=tally.round, record=record))


def _judge(answer: Answer, template: Weights) -> tuple[SiteRecord, Update | None]:
    if isinstance(answer, Refusal):
        return SiteRecord(site=answer.site, refused=answer.reason), None
    try:
        must_fit(answer.delta, template)
        if answer.images < 1:
            raise ExchangeError(f"it names {answer.images} images; an update needs at least 1")
    except ExchangeError as fault:
        return SiteRecord(site=answer.site, refused=f"its update was left out: {fault}"), None
    told = {name: float(value) for name, value in answer.metrics.items() if math.isfinite(value)}
    return SiteRecord(site=answer.site, images=answer.images, metrics=told), answer


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
