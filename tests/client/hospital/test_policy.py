"""A policy refuses, approves or lets wait what a coordinator proposes, and says why."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from proposed import ALLOWED, DATA, NOON, asking, proposal_of, verdict_of

from confrere_client.hospital.policy import (
    TELLABLE,
    Policy,
    RunClass,
    effective,
    epsilon_of,
    judge,
    may_leave,
)
from confrere_client.work import SENT
from confrere_common.codes import CODES
from confrere_common.config import Run
from confrere_common.finetune import Finetune
from confrere_common.privacy.settings import Privacy
from confrere_common.secagg.roster import PinnedRoster
from confrere_common.validated import VALIDATED


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
    assert set(TELLABLE) == {*SENT, VALIDATED}  # the one figure that no round of training makes


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
