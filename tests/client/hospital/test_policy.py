"""No run that a coordinator can write weakens a hospital's policy."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tiny_run

from confrere_client.hospital.plan import run_of
from confrere_client.hospital.policy import (
    TELLABLE,
    Policy,
    RunClass,
    Verdict,
    effective,
    epsilon_of,
    in_hours,
    judge,
    may_leave,
    policy_text,
    read_policy,
)
from confrere_client.hospital.registry import Registered
from confrere_client.work import SENT
from confrere_common.codes import CODES
from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.family import Named
from confrere_common.finetune import Finetune
from confrere_common.loading import dump
from confrere_common.method import METHODS
from confrere_common.privacy.settings import Privacy
from confrere_common.proposal import Proposal
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.section import documentation

NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001  (local time)
RANKS = {"refused": 0, "waiting": 1, "approved": 2}


def lent(name: str, images: int) -> Registered:
    source = Named(name="folder", knobs={"path": "/wards/SMITH^JOHN"})
    return Registered(name=name, source=source, images=images, patients=images)


DATA = {"derm": lent("derm", 60), "chest": lent("chest", 40)}


def asking(**changes: Any) -> Run:
    data = {"source": {"name": "site", "dataset": "derm"}}
    return tiny_run(**{"method": "simclr", "data": data, **changes})


def proposal_of(run: Run | str, **changes: Any) -> Proposal:
    given: dict[str, Any] = {
        "run_id": "r1",
        "study": "derm",
        "run": run if isinstance(run, str) else dump(run),
        "code": "ab" * 32,
        "sites": 3,
        "bytes_down": 1000,
        "bytes_up": 1000,
        "seed": 0,
    }
    return Proposal(**{**given, **changes})


def verdict_of(
    policy: Policy,
    run: Run,
    *,
    data: Mapping[str, Registered] = DATA,
    now: datetime = NOON,
    **said: Any,
) -> Verdict:
    return judge(policy, proposal_of(run, **said), run, data_sets=data, now=now)


def test_by_default_every_run_waits_for_a_person() -> None:
    verdict = verdict_of(Policy(), asking())

    assert (verdict.state, verdict.codes) == ("waiting", ("not-approved",))
    assert verdict.data_set == "derm"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(stages=()), "policy-stage"),
        (Policy(methods=("mae",)), "policy-method"),
        (Policy(encoders=("vit",)), "policy-encoder"),
        (Policy(rules=("median", "trimmed_mean")), "policy-rule"),
        (Policy(data_sets=("chest",)), "policy-data"),
        (Policy(data_sets=()), "policy-data"),
        (Policy(min_sites=4), "policy-sites"),
        (Policy(max_bytes_per_round=1999), "policy-bytes"),
        (Policy(max_epsilon=8.0), "policy-privacy"),
        (Policy(require_secure_aggregation=True), "policy-secure-aggregation"),
        (Policy(min_images=61), "not-enough-images"),
        (Policy(max_images=10), "not-enough-images"),
    ],
)
def test_each_limit_refuses_with_its_code_even_what_is_approved_beforehand(
    policy: Policy, code: str
) -> None:
    run = asking()
    policy = replace(policy, preapproved=(proposal_of(run).digest,))

    verdict = verdict_of(policy, run)

    assert (verdict.state, verdict.codes) == ("refused", (code,))
    assert code in CODES


def test_all_that_stands_against_a_run_is_said_at_once() -> None:
    policy = Policy(methods=(), rules=(), min_sites=9, max_epsilon=1.0)

    verdict = verdict_of(policy, asking())

    assert set(verdict.codes) == {"policy-method", "policy-rule", "policy-sites", "policy-privacy"}
    assert len(verdict.sentences) == 4
    assert "The method is 'simclr'; your policy allows none." in verdict.sentences


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"name": "folder", "path": "/etc"}, "policy-data"),
        ({"name": "npz", "path": "../x.npz"}, "policy-data"),
        ({"name": "phantom"}, "policy-data"),
        ({"name": "\x1b[31mmoon"}, "policy-data"),
        ({"name": "site", "dataset": "../derm"}, "policy-data"),
        ({"name": "site", "dataset": 3}, "policy-data"),
        ({"name": "site", "dataset": "derm", "path": "/etc"}, "policy-data"),
        ({"name": "site", "dataset": "derma"}, "no-such-data"),
        ({"name": "site"}, "no-such-data"),
    ],
)
def test_a_run_gets_registered_data_or_none(source: Mapping[str, Any], code: str) -> None:
    verdict = verdict_of(Policy(), asking(data={"source": source}))

    assert (verdict.state, verdict.codes, verdict.data_set) == ("refused", (code,), "")
    assert all(sentence.isprintable() for sentence in verdict.sentences)


def test_a_site_with_one_data_set_needs_no_name_for_it() -> None:
    run = asking(data={"source": {"name": "site"}})

    assert verdict_of(Policy(), run, data={"chest": DATA["chest"]}).data_set == "chest"
    assert verdict_of(Policy(), run, data={}).codes == ("no-such-data",)
    # Of two, the one that the policy lends is not meant: a stricter policy would permit more.
    assert verdict_of(Policy(data_sets=("derm",)), run).codes == ("no-such-data",)


def test_who_may_not_have_a_data_set_is_not_told_whether_it_is_there() -> None:
    policy = Policy(data_sets=("derm",))

    asked = [asking(data={"source": {"name": "site", "dataset": name}}) for name in ("chest", "x")]

    assert [verdict_of(policy, run).codes for run in asked] == [("policy-data",)] * 2


def test_a_plan_approved_beforehand_goes_ahead_until_run_or_code_change() -> None:
    run = asking()
    policy = Policy(preapproved=(proposal_of(run).digest,))

    assert verdict_of(policy, run).state == "approved"
    assert verdict_of(policy, run, run_id="r2", sites=7).state == "approved"
    assert verdict_of(policy, run, code="cd" * 32).state == "waiting"
    assert verdict_of(policy, asking(federation={"rounds": 3})).state == "waiting"


ALLOWED = RunClass(study="derm", methods=("simclr",), data_sets=("derm",), max_rounds=2)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (ALLOWED, "approved"),
        (replace(ALLOWED, study="chest"), "waiting"),
        (replace(ALLOWED, methods=("mae",)), "waiting"),
        (replace(ALLOWED, data_sets=("chest",)), "waiting"),
        (replace(ALLOWED, max_rounds=1), "waiting"),
        (replace(ALLOWED, encoders=("vit",)), "waiting"),
        (replace(ALLOWED, rules=("median",)), "waiting"),
        (replace(ALLOWED, max_bytes_per_round=1999), "waiting"),
        (replace(ALLOWED, encoders=("resnet",), rules=("mean",)), "approved"),
        (replace(ALLOWED, max_bytes_per_round=2000), "approved"),
        (replace(ALLOWED, min_sites=100), "waiting"),
    ],
)
def test_a_class_approved_beforehand_must_fit_in_all(kind: RunClass, state: str) -> None:
    assert verdict_of(Policy(preapproved_classes=(kind,)), asking()).state == state


def test_a_class_lets_no_counts_of_scores_leave_unless_it_says_so() -> None:
    kind = replace(ALLOWED, methods=("classification",))
    tuned = replace(asking(), stage="finetune", finetune=Finetune(classes=("a", "b")))
    silent = replace(tuned, finetune=Finetune(classes=("a", "b"), evaluation=None))

    states = [
        verdict_of(Policy(preapproved_classes=(one,)), run).state
        for one, run in ((kind, tuned), (kind, silent), (replace(kind, evaluation=True), tuned))
    ]

    assert states == ["waiting", "approved", "approved"]


ROSTER = {name: f"{number}" * 64 for number, name in enumerate(("north", "east", "south"))}


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ({}, "waiting"),
        ({"rosters": (PinnedRoster(ROSTER).digest,)}, "approved"),
        ({"rosters": ("0" * 64,)}, "waiting"),
        ({"rosters": ("any",)}, "approved"),
        ({"rosters": ("any",), "min_sites": 3}, "approved"),
        ({"rosters": ("any",), "min_sites": 4}, "waiting"),
    ],
)
def test_a_class_takes_no_roster_that_nobody_here_has_seen(kind: Any, state: str) -> None:
    run = asking(secure_aggregation={})
    policy = Policy(preapproved_classes=(replace(ALLOWED, **kind),))

    proposal = replace(proposal_of(run), roster=ROSTER, sites=9)
    verdict = judge(policy, proposal, run, data_sets=DATA, now=NOON)

    assert verdict.state == state


@pytest.mark.parametrize(("mixing", "state"), [("fedprox", "approved"), ("scaffold", "waiting")])
def test_no_class_approves_what_sends_more_than_a_change_of_weights(
    mixing: str, state: str
) -> None:
    run = asking(federation={"rounds": 2, "mixing": [mixing]})

    assert verdict_of(Policy(preapproved_classes=(ALLOWED,)), run).state == state


def test_outside_its_hours_a_site_waits() -> None:
    run = asking()
    policy = Policy(hours=("20:00-06:00",), preapproved=(proposal_of(run).digest,))

    assert verdict_of(policy, run).codes == ("policy-hours",)
    assert verdict_of(policy, run).state == "waiting"
    assert verdict_of(policy, run, now=NOON.replace(hour=23)).state == "approved"
    assert verdict_of(Policy(hours=()), run).codes == ("not-approved", "policy-hours")


def private(epsilon: object) -> Run:
    """Return a run as a later version has them, with a section for privacy."""
    run = asking()
    object.__setattr__(run, "privacy", {"epsilon": epsilon})
    object.__setattr__(run, "secure_aggregation", {"threshold": 3})
    return run


@pytest.mark.parametrize(
    ("epsilon", "refused"),
    [(1.0, False), (8, False), (8.01, True), (math.inf, True), (math.nan, True), (-1.0, True),
     (0, True), ("1", True), (None, True), (True, True)],
)  # fmt: skip
def test_a_demanded_epsilon_is_kept(epsilon: object, refused: bool) -> None:
    policy = Policy(max_epsilon=8.0, require_secure_aggregation=True)

    faults = verdict_of_private(policy, private(epsilon))

    assert ("policy-privacy" in faults) == refused
    assert "policy-secure-aggregation" not in faults


def verdict_of_private(policy: Policy, run: Run) -> tuple[str, ...]:
    return judge(policy, proposal_of(asking()), run, data_sets=DATA, now=NOON).codes


@pytest.mark.parametrize(
    ("gpus", "wanted", "given"),
    [
        (None, "auto", "auto"),
        (None, "cuda:7", "cuda:7"),
        ((), "auto", "cpu"),
        ((), "cuda:0", "cpu"),
        ((), "cpu", "cpu"),
        ((4, 6), "auto", "auto"),
        ((4, 6), "cuda", "cuda"),
        ((4, 6), "cuda:1", "cuda:1"),
        ((4, 6), "cuda:2", "cuda"),
        ((4, 6), "cuda:4", "cuda"),
        ((4, 6), "mps", "cuda"),
        ((4, 6), "cpu", "cpu"),
    ],
)
def test_a_run_is_carried_out_on_the_gpus_that_the_policy_allows(
    gpus: tuple[int, ...] | None, wanted: str, given: str
) -> None:
    run = asking(train={"device": wanted})

    assert effective(run, Policy(gpus=gpus)).train.device == given


def test_only_figures_of_the_policy_leave_and_rounded() -> None:
    figures = {"loss": 0.123456, "seconds": 3.21, "rankme": 12345.6, "feature_std": math.nan}

    assert may_leave(Policy(), figures, 16) == {"loss": 0.123, "rankme": 12300.0}
    assert may_leave(Policy(metrics=("seconds",), metric_digits=1), figures, 16) == {"seconds": 3.0}
    assert may_leave(Policy(metrics=()), figures, 16) == {}
    assert may_leave(Policy(), figures, 15) == {}


def test_a_policy_may_let_leave_what_the_auditor_s_page_names_and_no_more() -> None:
    assert set(TELLABLE) == set(SENT)


# What holds for all policies and all runs.

FAMILY_OF = {"methods": METHODS.names(), "encoders": ENCODERS.names()}
RULES = ("mean", "median", "trimmed_mean")
CLASSES = (ALLOWED, replace(ALLOWED, methods=METHODS.names(), max_rounds=10**6))


def some(*values: Any) -> st.SearchStrategy[Any]:
    chosen = st.lists(st.sampled_from(values), unique=True, max_size=len(values)).map(tuple)
    return st.none() | chosen


LIMITS: Mapping[str, st.SearchStrategy[Any]] = {
    "data_sets": some("derm", "chest"),
    "methods": some(*METHODS.names()),
    "encoders": some(*ENCODERS.names()),
    "stages": some("pretrain"),
    "rules": some(*RULES),
    "max_epsilon": st.none() | st.floats(0.1, 10),
    "require_secure_aggregation": st.booleans(),
    "min_sites": st.integers(1, 4),
    "hours": some("20:00-06:00", "10:00-14:00", "11:30-12:30", "00:00-24:00"),
    "threads": st.none() | st.integers(1, 8),
    "gpus": some(0, 1, 2),
    "max_bytes_per_round": st.integers(1, 4000),
    "max_images": st.none() | st.integers(1, 100),
    "min_images": st.integers(1, 70),
    "min_cell": st.integers(2, 70),
    "metrics": some(*TELLABLE).map(lambda names: names or ()),
    "metric_digits": st.integers(1, 17),
}


@st.composite
def policies(draw: st.DrawFn, limit: str = "") -> Policy:
    """Draw a policy with a few limits, *limit* among them: with all of them nothing would pass."""
    others = draw(st.lists(st.sampled_from(sorted(LIMITS)), unique=True, max_size=2))
    values = {name: draw(LIMITS[name]) for name in {*others, limit or "hours"}}
    kinds = draw(st.sampled_from([CLASSES, CLASSES[1:], CLASSES[:1], ()]))
    return Policy(**{"min_sites": 1, "preapproved_classes": kinds, **values})


@st.composite
def run_texts(draw: st.DrawFn) -> str:
    """Draw what a coordinator may write: sound or not, and with words of its own for the policy."""
    plain = json.loads(dump(asking()))
    plain["method"] = {"name": draw(st.sampled_from(METHODS.names()))}
    plain["encoder"] = {"name": draw(st.sampled_from(ENCODERS.names()))}
    plain["federation"]["rule"] = {"name": draw(st.sampled_from((*RULES, "own")))}
    plain["federation"]["rounds"] = draw(st.integers(1, 5))
    plain["data"]["source"] = draw(st.sampled_from(SOURCES_ASKED))
    plain["train"]["device"] = draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "cuda:9"]))
    if draw(st.integers(0, 9)) == 9:
        plain |= draw(st.sampled_from([{"policy": {"gpus": [9]}}, {"min_sites": 0}]))
    return json.dumps(plain)


SOURCES_ASKED: list[Mapping[str, Any]] = [
    *[{"name": "site", "dataset": "derm"}] * 4,
    {"name": "site", "dataset": "chest"},
    {"name": "site"},
    {"name": "folder", "path": "/"},
]

proposals = st.builds(
    proposal_of,
    run_texts(),
    sites=st.integers(1, 5),
    bytes_down=st.integers(0, 2000),
    bytes_up=st.integers(0, 2000),
)
registries = st.sampled_from([*[DATA] * 5, {"derm": DATA["derm"]}, {"chest": DATA["chest"]}, {}])
moments = st.integers(0, 23).map(lambda hour: NOON.replace(hour=hour))


def carried_out(
    policy: Policy, proposal: Proposal, data: Mapping[str, Registered], now: datetime
) -> tuple[Run | None, Verdict]:
    """Do as the daemon does: read, take the stricter, judge."""
    try:
        run = effective(run_of(proposal), policy)
    except ExchangeError:
        codes = ("task-unreadable",)
        return None, Verdict(state="refused", codes=codes, sentences=codes)
    return run, judge(policy, proposal, run, data_sets=data, now=now)


def obeys(policy: Policy, proposal: Proposal, run: Run, entry: Registered) -> bool:
    allowed = {
        run.method.name: policy.methods,
        run.encoder.name: policy.encoders,
        run.stage: policy.stages,
        run.federation.rule.name: policy.rules,
        entry.name: policy.data_sets,
    }
    images = min(entry.images, policy.max_images or entry.images)
    # Counted among the GPUs that the training process is shown.
    devices = ["cpu", *(f"cuda:{number}" for number in range(len(policy.gpus or ())))]
    devices += ["auto", "cuda"] if policy.gpus else []
    return (
        all(names is None or name in names for name, names in allowed.items())
        and run.data.source.name == "site"
        and policy.max_epsilon is None
        and not policy.require_secure_aggregation
        and proposal.sites >= policy.min_sites
        and proposal.bytes_down + proposal.bytes_up <= policy.max_bytes_per_round
        and images >= policy.min_images
        and (policy.gpus is None or run.train.device in devices)
    )


MANY = settings(deadline=None, max_examples=30)


@pytest.mark.parametrize("limit", LIMITS)
@MANY
@given(drawn=st.data(), proposal=proposals, data=registries, now=moments, known=st.booleans())
def test_no_run_whatever_weakens_the_policy(
    limit: str,
    drawn: st.DataObject,
    proposal: Proposal,
    data: Mapping[str, Registered],
    now: datetime,
    known: bool,
) -> None:
    """``policy.judge``: "Guarantee: what is approved keeps every limit of the policy"."""
    policy = drawn.draw(policies(limit))
    policy = replace(policy, preapproved=(proposal.digest,) if known else ())

    run, verdict = carried_out(policy, proposal, data, now)

    assert len(verdict.codes) == len(verdict.sentences)
    assert set(verdict.codes) <= set(CODES)
    assert (verdict.state == "approved") == (verdict.codes == ())
    if verdict.state != "refused":
        assert run is not None
        assert obeys(policy, proposal, run, data[verdict.data_set])
    if verdict.state == "approved":
        assert in_hours(policy, now)
        assert known or policy.preapproved_classes


# The file.


@settings(deadline=None, max_examples=30)
@given(policy=policies())
def test_a_policy_written_is_read_as_it_was(
    policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("site") / "policy.yaml"
    path.write_text(policy_text(policy))

    assert read_policy(path) == policy


def test_the_written_policy_explains_every_line() -> None:
    text = policy_text(Policy())

    lines = text.splitlines()
    for name, said in documentation(Policy).items():
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[place - 1].startswith("# ")
        assert said.split("\n")[0].split(";")[0] in text


def policy_faults(folder: Path, text: str) -> str:
    (folder / "policy.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        read_policy(folder / "policy.yaml")
    return "\n".join(told.value.faults)


def test_all_faults_of_a_policy_are_told_at_once(tmp_path: Path) -> None:
    text = """
methods: [simcrl]
encoder: [vit]
hours: ["20-06"]
min_sites: 0
threads: yes
max_epsilon: .inf
metrics: [losses]
preapproved: [abc]
preapproved_classes: [{study: derm, methods: [mae], data_sets: [derm], rounds: 3}]
"""

    faults = policy_faults(tmp_path, text)

    for said in (
        "unknown method 'simcrl': did you mean 'simclr'?",
        "unknown key 'encoder': did you mean 'encoders'?",
        "'20-06' is no span of hours: write 20:00-06:00",
        "min_sites is 0",
        "threads is True",
        "max_epsilon is inf",
        "unknown figure 'losses': did you mean 'loss'?",
        "preapproved.0 is 'abc'",
        "preapproved_classes.0: unknown key 'rounds': did you mean 'max_rounds'?",
        "preapproved_classes.0.max_rounds is missing",
    ):
        assert said in faults


def test_a_policy_that_is_not_there_is_a_fault_and_an_empty_one_the_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        read_policy(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_text("")

    assert read_policy(tmp_path / "policy.yaml") == Policy()


def test_one_name_needs_no_brackets(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("methods: mae\nhours: 20:00-06:00\ndata_sets: []\n")

    policy = read_policy(tmp_path / "policy.yaml")

    assert (policy.methods, policy.hours, policy.data_sets) == (("mae",), ("20:00-06:00",), ())


def test_epsilon_is_none_where_a_run_has_no_such_section() -> None:
    assert epsilon_of(asking()) is None


@pytest.mark.parametrize(
    ("privacy", "patients", "code"),
    [
        ({"epsilon": 8.0}, 500, None),
        ({"epsilon": 8.0, "delta": 1e-4}, 500, "policy-privacy"),
        ({"epsilon": 1.0, "noise_multiplier": 0.4}, 500, "privacy"),
        ({"epsilon": 8.0, "delta": 9e-3}, 500, "privacy"),
    ],
)
def test_a_run_that_cannot_keep_its_own_promise_is_refused_as_a_plan(
    privacy: dict[str, float], patients: int, code: str | None
) -> None:
    run = replace(asking(), privacy=Privacy(**privacy))
    lent = {name: replace(entry, patients=patients) for name, entry in DATA.items()}

    verdict = judge(Policy(max_delta=1e-5), proposal_of(run), run, data_sets=lent, now=NOON)

    assert (code in verdict.codes) if code else verdict.state != "refused"
