"""A plan as a doctor reads it: what would be trained, on what, what would leave, what is decided.

Everything in it that came over the network is checked or shown as plain marks of one line.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from confrere_client.hospital.describe_text import describing, leaving
from confrere_client.hospital.finetune_text import lacks, learning, scoring, validates
from confrere_client.hospital.plan import Plan, run_of
from confrere_client.hospital.policy import (
    Policy,
    Verdict,
    effective,
    judge,
    usable_images,
)
from confrere_client.hospital.protection import aggregates_securely, epsilon_of
from confrere_client.hospital.registry import Registered, open_registered, printable
from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ConfrereError, DataError, ExchangeError, PrivacyError
from confrere_common.family import Named
from confrere_common.loading import digest
from confrere_common.method import METHODS
from confrere_common.mixing import MIXINGS, mixings_of
from confrere_common.model import objective_of, outline, task_of
from confrere_common.preparation import must_be_prepared
from confrere_common.privacy.terms import terms
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.validated import VALIDATED
from confrere_common.weights import count

Row = tuple[str, str]
"""A label and what it says."""

DEEPEST = 256
"""Layers above which a model is not built merely to count its parameters."""


def summary(
    plan: Plan, policy: Policy, data: Mapping[str, Registered], *, now: datetime | None = None
) -> list[Row]:
    """Return what a person must know to approve or deny, a label and a text each.

    *data* are the registered data sets; *now* is local time.
    """
    proposal, when = plan.proposal, now or datetime.now().astimezone()
    head = [
        ("run", proposal.run_id),
        ("study", printable(proposal.study)),
        ("received", plan.received),
    ]
    try:
        asked = run_of(proposal)
    except ExchangeError as fault:
        return [*head, ("problem", str(fault)), *_digests(plan)]
    run = effective(asked, policy)
    verdict = judge(policy, proposal, run, data_sets=data, now=when)
    return [
        *head,
        *_proposed(plan, run, policy, verdict, data),
        *_digests(plan),
        ("your policy", _policy(verdict)),
        ("decision", _decision(plan)),
    ]


def shared_count(run: Run) -> int | None:
    """Return how many shared parameters the model of *run* has; None when it cannot be told.

    Nothing is computed and no memory taken.
    """
    knobs = [*run.encoder.knobs.items(), *objective_of(run).knobs.items()]
    if any("depth" in key and isinstance(n, int) and n > DEEPEST for key, n in knobs):
        return None
    try:
        model = outline(run)
    except (ConfrereError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError):
        return None  # what cannot be built is told when it is trained
    return count({name: t for name, t in model.state_dict().items() if model.is_shared(name)})


def _proposed(
    plan: Plan, run: Run, policy: Policy, verdict: Verdict, data: Mapping[str, Registered]
) -> Iterator[Row]:
    entry, lent = data.get(verdict.data_set), ("data set", _data(verdict, policy, data))
    if run.describe is not None and run.stage == "describe":
        told = leaving(entry, run.describe, policy)
        yield from (*describing(run.describe, policy), lent, *told)
        yield "other sites", f"{plan.proposal.sites - 1} enrolled, as the coordinator says"
        return
    yield from (*_training(run, policy), lent, *_prepared(run, entry))
    if (task := task_of(run)) is not None and entry is not None:
        yield from lacks(task, entry, policy)
    yield from _leaving(plan, run, policy)
    yield from (*_protection(run, entry), *_company(plan, run))


def _training(run: Run, policy: Policy) -> Iterator[Row]:
    if (task := task_of(run)) is not None:
        yield from learning(task)
    else:
        yield "stage", run.stage
        yield "method", f"{run.method.name}: {METHODS.caption(run.method.name)}"
    shared = shared_count(run)
    said = (
        ""
        if shared is None
        else f" With what is trained on it: {shared / 1e6:.2f} M shared parameters."
    )
    yield "encoder", f"{run.encoder.name}: {ENCODERS.caption(run.encoder.name)}{said}"
    yield "rounds", _rounds(run, policy)
    yield "machine", _machine(run, policy)


def _prepared(run: Run, entry: Registered | None) -> Iterator[Row]:
    """Yield whether the data set was prepared as the run demands, where it demands anything."""
    if run.data.preparation is None or entry is None:
        return
    try:
        must_be_prepared(open_registered(entry).preparation, run.data.preparation)
    except DataError as fault:
        said = printable(str(fault), 600)
        yield "prepared", f"not as the run demands: you would take no part. {said}"
    else:
        yield "prepared", "as the run demands; its release tells what the run said, not your data"


def _rounds(run: Run, policy: Policy) -> str:
    train, rounds = run.train, run.federation.rounds
    work = f"{train.epochs_per_round or 1:g} passes over the images"
    if train.steps_per_round is not None:
        work = f"{train.steps_per_round} steps of {train.batch} images"
    hours = rounds * policy.max_round_minutes / 60
    return (
        f"{rounds} rounds, {work} in each. Your policy ends a round after "
        f"{policy.max_round_minutes:g} minutes: {hours:.1f} hours of training at most in all."
    )


def _machine(run: Run, policy: Policy) -> str:
    threads = f"{policy.threads} threads" if policy.threads else "all threads"
    memory = f"{policy.memory_mb} MB of memory" if policy.memory_mb else "memory as needed"
    hours = f"; from {', '.join(policy.hours) or 'never'}" if policy.hours is not None else ""
    return f"device {printable(run.train.device)}, {threads}, {memory}{hours}"


def _data(verdict: Verdict, policy: Policy, data: Mapping[str, Registered]) -> str:
    if not verdict.data_set:
        return "none: see what your policy says"
    entry = data[verdict.data_set]
    used = usable_images(policy, entry)
    part = "" if used == entry.images else f", of which {used} are used"
    if entry.only_scored:
        capped = "" if used == entry.images else "; your max_images caps training alone"
        part = f"; marked 'test': all may be scored on, none is ever trained on{capped}"
    kind = f" ({entry.modality})" if entry.modality else ""
    return f"'{entry.name}'{kind}: {entry.images} images of {entry.patients} patients{part}"


def _leaving(plan: Plan, run: Run, policy: Policy) -> Iterator[Row]:
    up, down, rounds = plan.proposal.bytes_up, plan.proposal.bytes_down, run.federation.rounds
    figures = [name for name in policy.metrics if name != VALIDATED]  # told of by itself
    told = f"to {policy.metric_digits} digits: {', '.join(figures)}"
    told = told if figures and epsilon_of(run) is None else "no figures"
    yield (
        "leaves, each round",
        f"the change of the shared weights{_of_what(run)} ({_size(up)}), the number of images "
        f"trained on, and {told}. When it does not train: a code from a fixed table.",
    )
    for name, mixing, _ in mixings_of(run):
        beside = f" With it leaves {mixing.leaves}." if mixing.leaves else ""
        yield "mixing", f"{name}: {MIXINGS.caption(name)}{beside}"
    yield "leaves, in all", f"{rounds} times that at most: {_size(up * rounds)}"
    if run.stage == "finetune":
        yield from scoring(run, policy)
    again = ", and as much again to score it" if validates(run, policy) else ""
    yield "comes in", f"{_size(down)} a round, {_size(down * rounds)} in all{again}"
    if epsilon_of(run) is not None:
        yield (
            "leaves, once",
            "how many patients take part, and the terms below (rate, noise, steps)",
        )
    marks = ", each one's label" if run.stage == "finetune" else ""
    yield "stays", f"images{marks}, who the patients are, file names, every error's own words"
    if run.federation.personal:
        own = printable(", ".join(run.federation.personal))
        yield "stays, of the model", f"weights named {own}"
    shared = shared_count(run)
    if shared is not None and up != 4 * shared:
        yield (
            "note",
            f"the coordinator says {_size(up)} leave in a round; the shared weights of this model "
            f"take {_size(4 * shared)}.",
        )


def _of_what(run: Run) -> str:
    task = task_of(run)
    if task is None:
        return ""
    return " of the encoder" if task.head == "local" else " of encoder and head"


def _protection(run: Run, entry: Registered | None) -> Iterator[Row]:
    epsilon = epsilon_of(run)
    yield (
        "differential privacy",
        "no differential privacy: nothing bounds what the weights that leave may tell of a single "
        "patient. Who has an image may be able to find out whether it was trained on."
        if epsilon is None
        else f"epsilon {epsilon:g} at the end of the run: the lower, the less the weights can tell "
        "of a single patient.",
    )
    if epsilon is not None and entry is not None:
        yield "at this site", _on_terms(run, entry)
    yield (
        "secure aggregation",
        "yes: the coordinator sees the sum of several sites' changes, not this site's own"
        if aggregates_securely(run)
        else "no: the coordinator sees this site's own change of the weights",
    )


def _on_terms(run: Run, entry: Registered) -> str:
    """Say what privacy costs the patients of *entry*, round by round, or why it cannot be had."""
    if entry.unknown_patients and not entry.one_image_per_patient:
        return (
            f"it will be refused: {entry.unknown_patients} images have no known patient. Register "
            "them with a patient column, or vouch with --one-image-per-patient."
        )
    try:
        agreed = terms(run, entry.patients)
        first, last = agreed.spent(1), agreed.spent(agreed.rounds)
    except PrivacyError as fault:
        return f"it will be refused: {fault}"
    shared = shared_count(run)
    loud = ""
    if shared is not None:
        times = agreed.noise_to_signal(shared)
        loud = f" The noise of a step is {times:.0f} times its largest signal."
    return (
        f"unit: the patient, {entry.patients} of them, each drawn with chance {agreed.rate:.3g} in "
        f"each of {agreed.steps} steps a round; noise {agreed.noise:.3g} times the clip norm of "
        f"{agreed.clip_norm:g}. Epsilon {first:.2f} after the first round, {last:.2f} after the "
        f"last, at delta {agreed.budget.delta:g}; your ledger holds the run to "
        f"{agreed.budget.epsilon:g}.{loud}"
    )


def _company(plan: Plan, run: Run) -> Iterator[Row]:
    federation, others = run.federation, plan.proposal.sites - 1
    yield "joined by", f"rule {_named(federation.rule)}, server step {_named(federation.step)}"
    yield (
        "other sites",
        f"{others} enrolled, as the coordinator says; a round asks {federation.cohort:.0%} of all "
        f"and counts when {federation.quorum:.0%} of these answered",
    )
    if plan.proposal.roster:
        keys = [f"{site} ({key[:16]})" for site, key in sorted(plan.proposal.roster.items())]
        yield (
            "sums are among",
            f"{', '.join(keys)}. In brackets, how each one's signing key begins: whoever invents "
            "sites sees the others' sum, so ask those you know for theirs (confrere client status)",
        )
        yield "digest of the roster", PinnedRoster(plan.proposal.roster).digest


def _digests(plan: Plan) -> Iterator[Row]:
    yield "digest of the plan", plan.digest
    yield "digest of the run", digest(plan.proposal.run)
    yield "digest of the code", plan.proposal.code


def _policy(verdict: Verdict) -> str:
    if verdict.state == "approved":
        return "approved beforehand by your policy; nothing stands against it"
    said = " ".join(
        f"[{code}] {sentence}"
        for code, sentence in zip(verdict.codes, verdict.sentences, strict=True)
    )
    return f"{verdict.state}: {said}"


def _decision(plan: Plan) -> str:
    made = plan.decision
    if made is None:
        return "none yet"
    why = f": {printable(made.why, 200)}" if made.why else ""
    done = {"approve": "approved", "deny": "denied"}[made.decision]
    return f"{done} by {printable(made.who)} on {made.when}{why}"


def _named(named: Named) -> str:
    return printable(named.name)


def _size(length: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if length >= size:
            return f"{length / size:.1f} {unit}"
    return f"{length} bytes"
