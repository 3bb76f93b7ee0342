"""The hospital's policy: what it takes part in, whatever a coordinator writes into a run.

Every field can only forbid. A run goes ahead when nothing in the policy stands against it and a
person approved it, or the policy did so beforehand.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from confrere_client.hospital import hours as clock
from confrere_client.hospital.protection import (
    aggregates_securely,
    delta_of,
    epsilon_of,
    unpayable,
)
from confrere_client.hospital.registry import NAME, Registered, chosen, dataset_of, printable
from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import DataError, unknown
from confrere_common.judged import evaluation_of
from confrere_common.method import METHODS, OWN_FIGURES
from confrere_common.mixing import mixings_of
from confrere_common.model import objective_of
from confrere_common.proposal import Proposal, State
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.section import section
from confrere_common.settings import check_settings, read_mapping, written
from confrere_common.task import TASKS
from confrere_common.validated import VALIDATED

FIGURES = ("loss", "rankme", "feature_std", "uniformity", "alignment", "dead_share", *OWN_FIGURES)
"""Figures that leave by default: loss, health of the features, whether the task can be learned."""

TELLABLE = (*FIGURES, "seconds", "seen", "spread", VALIDATED)
"""Figures that a policy may let leave: those of ``work.SENT``, and a model's validation score."""

STAGES: tuple[str, ...] = get_args(Run.__dataclass_fields__["stage"].type)
"""Stages that a run may have."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _among(noun: str, known: Callable[[], Iterable[str]]) -> AfterValidator:
    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        odd = [name for name in names if name not in known()]
        if odd:
            raise ValueError(unknown(noun, odd[0], known()))
        return names

    return AfterValidator(check)


Whole: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
Names: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=NAME)], ...], BeforeValidator(_listed)
]
Methods: TypeAlias = Annotated[Names, _among("method", lambda: (*METHODS.names(), *TASKS.names()))]
Encoders: TypeAlias = Annotated[Names, _among("encoder", ENCODERS.names)]
Spans: TypeAlias = Annotated[
    tuple[str, ...], BeforeValidator(_listed), AfterValidator(clock.checked)
]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Roster: TypeAlias = Annotated[str, Field(pattern=r"^([0-9a-f]{64}|any)$")]


@section
class RunClass:
    """Runs that go ahead without being asked about, as long as the rest of the policy holds.

    Never one whose mixing sends more than a change of weights, nor one of stage describe: a person
    decides on that.
    """

    study: Annotated[str, Field(min_length=1, max_length=64)]
    """The coordinator's study."""

    methods: Methods
    """Methods and tasks that it may train."""

    data_sets: Names
    """Data sets on which."""

    max_rounds: Whole
    """Rounds that such a run may have."""

    encoders: Encoders | None = None
    """Encoders that it may train; null: any."""

    rules: Names | None = None
    """Rules that may join its updates; null: any."""

    max_bytes_per_round: Whole | None = None
    """Bytes, there and back, that a round of it may move; null: as the policy."""

    rosters: Annotated[tuple[Roster, ...], BeforeValidator(_listed)] = ()
    """Digests of rosters (as a plan shows them) among which a run of it may be held under secure
    aggregation; with any other a person decides, as whoever invents sites sees the others' sum.
    [any]: whatever roster comes."""

    min_sites: Whole | None = None
    """Sites, this one among them, that must be enrolled, and in the roster; null: as the policy."""

    evaluation: Annotated[bool, Field(strict=True)] = False
    """Whether counts and means of its model's scores may leave too without being asked about."""


@section
class Policy:
    """With these defaults nothing goes ahead before a person approved it."""

    data_sets: Names | None = None
    """Data sets that a run may ask for; null: all that are registered; []: none."""

    methods: Methods | None = None
    """Methods (confrere methods) and tasks (confrere tasks) that may be trained; null: any."""

    encoders: Encoders | None = None
    """Encoders that may be trained (confrere encoders); null: any."""

    stages: Annotated[Names, _among("stage", lambda: STAGES)] | None = None
    """Stages of a run (pretrain, finetune, describe); null: any. In describe nothing is trained:
    counts of patients leave."""

    rules: Names | None = None
    """How the coordinator may join the updates (confrere rules); null: any."""

    max_epsilon: Annotated[float, Field(gt=0, strict=True)] | None = None
    """Largest epsilon of differential privacy; runs without it are then refused. null: none is
    demanded."""

    max_delta: Annotated[float, Field(gt=0, lt=0.01, strict=True)] | None = None
    """Largest delta of a run with differential privacy; null: one below 1 / patients, as always."""

    budget_epsilon: Annotated[float, Field(gt=0, le=1000, strict=True)] = 10.0
    """Epsilon that all private runs together, of whatever study, may ever spend on the patients of
    one data set; the ledger refuses what would overshoot it."""

    budget_delta: Annotated[float, Field(gt=0, lt=0.1, strict=True)] = 1e-5
    """Delta at which that is reckoned; well below one over the number of patients."""

    require_secure_aggregation: Annotated[bool, Field(strict=True)] = False
    """Whether the coordinator may see nothing but the sum of several sites' updates."""

    min_sites: Whole = 2
    """Sites, this one among them, that must be enrolled."""

    hours: Spans | None = None
    """Hours of the day, local time, in which to train, such as ["20:00-06:00"]; null: always."""

    threads: Whole | None = None
    """Processor threads that training may use; null: all."""

    memory_mb: Whole | None = None
    """Main memory that the training process may take, in MB; null: as it needs."""

    gpus: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = None
    """Numbers of the GPUs that training may use, the only ones that its process is shown; null:
    any; []: none, it trains on the CPU."""

    max_round_minutes: Annotated[float, Field(gt=0, strict=True)] = 120.0
    """Minutes after which a round is given up."""

    max_bytes_per_round: Whole = 4_000_000_000
    """Bytes that a round may move, there and back."""

    max_images: Whole | None = None
    """Images of a data set that are trained on at most; null: all. Those marked 'test', on which a
    model is only scored, are not capped."""

    min_images: Whole = 16
    """Images below which a data set takes no part, and no figure of it leaves."""

    evaluation: Annotated[bool, Field(strict=True)] = True
    """Whether, in a run of stage finetune, counts of the model's scores on held-out patients may
    leave, and after each round the mean of others (val_score, see metrics); never where the policy
    requires secure aggregation. Without them the site trains all the same."""

    min_cell: Annotated[int, Field(ge=2, strict=True)] = 5
    """Patients below which no count leaves, of images (stage describe) or of a model's scores
    (stage finetune), nor a mean of these, whatever the run says."""

    duplicates: Annotated[bool, Field(strict=True)] = False
    """Whether, where a run of stage describe asks for it, salted hashes of images may leave, by
    which the coordinator counts images that several sites have. Who holds an image can find out
    that this site has that very image."""

    metrics: Annotated[Names, _among("figure", lambda: TELLABLE)] = (*FIGURES, VALIDATED)
    """Figures of a round that may leave; []: none. val_score only where evaluation lets it."""

    metric_digits: Annotated[int, Field(ge=1, le=17, strict=True)] = 3
    """Significant digits to which these are rounded."""

    preapproved: Annotated[tuple[Digest, ...], BeforeValidator(_listed)] = ()
    """Digests of plans (as `confrere client status` shows them) that need no approval."""

    preapproved_classes: tuple[RunClass, ...] = ()
    """Kinds of runs that need none, each with study, methods, data_sets, max_rounds and, if
    wanted, encoders, rules, max_bytes_per_round."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a policy says to a proposal, a person's approval aside."""

    state: State
    codes: tuple[str, ...]
    """Why it is not approved: codes of ``codes.CODES``, the first the most important."""

    sentences: tuple[str, ...]
    """The same for a person at the site, one for each code."""

    data_set: str = ""
    """The registered data set that would be used, when there is one."""


Fault: TypeAlias = tuple[str, str]
"""A code, and a sentence that stays at the site."""


def read_policy(path: Path) -> Policy:
    """Load policy.yaml; ConfigError lists every fault, for no part of a policy is ever guessed."""
    return check_settings(read_mapping(path), Policy, path.name)


def policy_text(policy: Policy) -> str:
    """Return the policy as YAML, with the documentation of every field as its comment."""
    return f"# What this hospital takes part in. Every line can only forbid.\n\n{written(policy)}"


def judge(
    policy: Policy,
    proposal: Proposal,
    run: Run,
    *,
    data_sets: Mapping[str, Registered],
    now: datetime,
) -> Verdict:
    """Say what *policy* says to a proposal whose text is *run*; *data_sets* are the registered.

    Guarantee: what is approved keeps every limit of the policy that can be told beforehand. What
    the proposal says of bytes and sites is the coordinator's word; the daemon counts the bytes
    that pass, and the minutes of a round.
    """
    name, refused = _data(policy, run, data_sets)
    refused += [*_kinds(policy, run), *_privacy(policy, run), *_exchange(policy, proposal)]
    if name in data_sets:
        refused += unpayable(run, data_sets[name].patients)
    if refused:
        return _verdict("refused", refused, name)
    waits: list[Fault] = []
    if not _preapproved(policy, proposal, run, name):
        waits.append(("not-approved", "The policy does not approve it beforehand: you decide."))
    if not in_hours(policy, now):
        open_at = ", ".join(policy.hours or ()) or "never"
        waits.append(("policy-hours", f"Your policy lets training run {open_at}."))
    return _verdict("waiting" if waits else "approved", waits, name)


def in_hours(policy: Policy, now: datetime) -> bool:
    """Say whether training may run at *now*, the site's local time if it bears no zone."""
    return policy.hours is None or clock.within(policy.hours, now)


def effective(run: Run, policy: Policy) -> Run:
    """Return *run* as this site carries it out: the stricter of run and policy. Idempotent.

    A run says nothing of threads, memory and minutes: there the policy alone holds. GPUs count from
    0 among those that the policy lets the training process see (CUDA_VISIBLE_DEVICES).
    """
    device = _device(run.train.device, policy.gpus)
    return replace(run, train=replace(run.train, device=device))


def may_leave(policy: Policy, metrics: Mapping[str, float], images: int) -> dict[str, float]:
    """Return the figures that may leave, rounded; none from fewer images than the policy's least.

    What is no finite number stays as well.
    """
    if images < policy.min_images:
        return {}
    return {
        name: float(f"{value:.{policy.metric_digits}g}")
        for name, value in metrics.items()
        if name in policy.metrics and math.isfinite(value)
    }


def _kinds(policy: Policy, run: Run) -> Iterator[Fault]:
    asked: dict[str, tuple[str, tuple[str, ...] | None]] = {"stage": (run.stage, policy.stages)}
    if run.stage != "describe":  # there, nothing else of it is used
        asked |= {
            "method": (objective_of(run).name, policy.methods),
            "encoder": (run.encoder.name, policy.encoders),
            "rule": (run.federation.rule.name, policy.rules),
        }
    for noun, (name, allowed) in asked.items():
        if allowed is not None and name not in allowed:
            said = ", ".join(allowed) or "none"
            yield f"policy-{noun}", f"The {noun} is '{printable(name)}'; your policy allows {said}."


def _data(policy: Policy, run: Run, data_sets: Mapping[str, Registered]) -> tuple[str, list[Fault]]:
    """Return the data set that is meant, '' if none can be, and what stands against it."""
    try:
        wanted = dataset_of(run)
    except DataError as fault:
        return "", [("policy-data", f"No path is taken from outside: {fault}")]
    try:
        name = chosen(wanted, data_sets)
    except DataError as fault:
        name, missing = wanted or "", str(fault)
    # First of all: whoever may not have a data set is not told whether it is there.
    if name and policy.data_sets is not None and name not in policy.data_sets:
        return "", [("policy-data", f"Your policy does not lend the data set '{name}'.")]
    if name not in data_sets:
        return "", [("no-such-data", missing)]
    images = usable_images(policy, data_sets[name])
    few = f"'{name}' has {images} images to train on; your policy demands {policy.min_images}."
    return name, [("not-enough-images", few)] if images < policy.min_images else []


def usable_images(policy: Policy, entry: Registered) -> int:
    """Return how many images of a data set a run may use."""
    return entry.images if policy.max_images is None else min(entry.images, policy.max_images)


def _privacy(policy: Policy, run: Run) -> Iterator[Fault]:
    epsilon, most = epsilon_of(run), policy.max_epsilon
    if most is not None and epsilon is None:
        yield "policy-privacy", "It has no differential privacy; your policy demands it."
    elif most is not None and epsilon is not None and not 0 < epsilon <= most:
        yield "policy-privacy", f"Its epsilon is {epsilon:g}; your policy allows {most:g} at most."
    if epsilon is not None and policy.max_delta is not None and delta_of(run) > policy.max_delta:
        said = f"Its delta is {delta_of(run):g}; your policy allows {policy.max_delta:g} at most."
        yield "policy-privacy", said
    if policy.require_secure_aggregation and not aggregates_securely(run):
        yield "policy-secure-aggregation", "It has no secure aggregation; your policy demands it."


def _exchange(policy: Policy, proposal: Proposal) -> Iterator[Fault]:
    if proposal.sites < policy.min_sites:
        said = f"{proposal.sites} sites are enrolled; your policy demands {policy.min_sites}."
        yield "policy-sites", said
    moved, most = proposal.bytes_down + proposal.bytes_up, policy.max_bytes_per_round
    if moved > most:
        yield "policy-bytes", f"A round moves {moved:,} bytes; your policy allows {most:,}."


def _preapproved(policy: Policy, proposal: Proposal, run: Run, data_set: str) -> bool:
    return proposal.digest in policy.preapproved or any(
        _belongs(kind, proposal, run, data_set) for kind in policy.preapproved_classes
    )


def _belongs(kind: RunClass, proposal: Proposal, run: Run, data_set: str) -> bool:
    most = kind.max_bytes_per_round
    return (
        proposal.study == kind.study
        and run.stage != "describe"
        and objective_of(run).name in kind.methods
        and data_set in kind.data_sets
        and run.federation.rounds <= kind.max_rounds
        and (kind.encoders is None or run.encoder.name in kind.encoders)
        and (kind.rules is None or run.federation.rule.name in kind.rules)
        and (most is None or proposal.bytes_down + proposal.bytes_up <= most)
        and not any(mixing.leaves for _, mixing, _ in mixings_of(run))
        and (kind.evaluation or evaluation_of(run) is None)
        and _among_known(kind, proposal, run)
    )


def _among_known(kind: RunClass, proposal: Proposal, run: Run) -> bool:
    """Say whether a class has the sites that the run is held among."""
    masked = aggregates_securely(run)
    sites = min(proposal.sites, len(proposal.roster)) if masked else proposal.sites
    pinned = "any" in kind.rosters or PinnedRoster(proposal.roster).digest in kind.rosters
    return (kind.min_sites is None or sites >= kind.min_sites) and (pinned or not masked)


def _verdict(state: State, faults: list[Fault], data_set: str) -> Verdict:
    codes, sentences = tuple(code for code, _ in faults), tuple(text for _, text in faults)
    return Verdict(state=state, codes=codes, sentences=sentences, data_set=data_set)


def _device(wanted: str, gpus: tuple[int, ...] | None) -> str:
    if gpus is None:
        return wanted
    if not gpus:
        return "cpu"
    seen = ("cpu", "auto", "cuda", *(f"cuda:{number}" for number in range(len(gpus))))
    return wanted if wanted in seen else "cuda"
