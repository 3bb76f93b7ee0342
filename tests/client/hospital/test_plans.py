"""A plan is kept once, and what a person decided on it holds for exactly that plan."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import tiny_run

from confrere_client.hospital import plans
from confrere_client.hospital.plans import (
    OtherPlan,
    TooManyPlans,
    decide,
    list_plans,
    read_plan,
    receive,
    run_of,
    standing,
)
from confrere_client.hospital.policy import Verdict
from confrere_common.codes import code_of
from confrere_common.errors import CheckpointError, ConfigError, ExchangeError
from confrere_common.loading import dump
from confrere_common.proposal import Proposal, Standing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAITING = Verdict(state="waiting", codes=("not-approved",), sentences=("You decide.",))


@pytest.fixture
def proposal() -> Proposal:
    data = {"source": {"name": "site", "dataset": "derm"}}
    return Proposal(
        run_id="r1",
        study="derm",
        run=dump(tiny_run(data=data)),
        code="ab" * 32,
        sites=3,
        bytes_down=1000,
        bytes_up=1000,
        seed=0,
    )


def files_of(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_plan_is_kept_as_it_came_first(tmp_path: Path, proposal: Proposal) -> None:
    first = receive(tmp_path, proposal, now=NOW)
    again = receive(tmp_path, proposal)

    assert first == again == read_plan(tmp_path, "r1")
    assert first.received == "2026-03-01T12:00:00+00:00"
    assert list(files_of(tmp_path)) == ["plans/r1/proposal.json"]
    assert run_of(first.proposal).data.source.name == "site"


def test_sites_may_come_and_go_without_making_another_plan(
    tmp_path: Path, proposal: Proposal
) -> None:
    receive(tmp_path, proposal)
    decide(tmp_path, "r1", "approve", "dr")

    plan = receive(tmp_path, replace(proposal, sites=7))

    assert plan.proposal.sites == read_plan(tmp_path, "r1").proposal.sites == 7
    assert plan.decision is not None


@pytest.mark.parametrize(
    "changed",
    [{"run": "{}"}, {"code": "cd" * 32}, {"study": "x"}, {"bytes_up": 9}, {"seed": 1}],
)
def test_another_plan_under_the_same_id_is_refused_and_inherits_nothing(
    tmp_path: Path, proposal: Proposal, changed: dict[str, object]
) -> None:
    receive(tmp_path, proposal)
    decide(tmp_path, "r1", "approve", "dr")

    with pytest.raises(OtherPlan, match="Submit it under a new id") as told:
        receive(tmp_path, replace(proposal, **changed))  # type: ignore[arg-type]

    assert code_of(told.value) == "other-plan"
    assert read_plan(tmp_path, "r1").proposal == proposal


def test_an_approval_does_not_hold_for_a_plan_exchanged_on_the_disk(
    tmp_path: Path, proposal: Proposal
) -> None:
    receive(tmp_path, proposal)
    made = decide(tmp_path, "r1", "approve", "dr", "looks sound", now=NOW)
    assert read_plan(tmp_path, "r1").decision == made
    assert (made.digest, made.who, made.why) == (proposal.digest, "dr", "looks sound")

    path = tmp_path / "plans" / "r1" / "proposal.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "proposal": {**plain["proposal"], "code": "cd" * 32}}))

    assert read_plan(tmp_path, "r1").decision is None


NUMBERS = '{"decision": 1, "who": 1, "when": 1, "why": 1, "digest": 1}'


@pytest.mark.parametrize("text", ["", "[]", "{", '{"decision": "approve"}', NUMBERS])
def test_a_damaged_decision_decides_nothing(tmp_path: Path, proposal: Proposal, text: str) -> None:
    receive(tmp_path, proposal)
    (tmp_path / "plans" / "r1" / "decision.json").write_text(text)

    assert read_plan(tmp_path, "r1").decision is None


def test_a_person_may_think_again(tmp_path: Path, proposal: Proposal) -> None:
    receive(tmp_path, proposal)

    decide(tmp_path, "r1", "approve", "dr")
    decide(tmp_path, "r1", "deny", "prof", "not on a Friday")

    found = read_plan(tmp_path, "r1").decision
    assert found is not None
    assert (found.decision, found.who) == ("deny", "prof")


BAD_IDS = [
    "../evil",
    "..",
    ".",
    "",
    "a/b",
    "/etc/passwd",
    "a\0b",
    "a\n",
    "~root",
    "x" * 65,
    "C:\\x",
]


@pytest.mark.parametrize("run_id", BAD_IDS)
def test_no_run_id_leaves_the_folder_of_plans(
    tmp_path: Path, proposal: Proposal, run_id: str
) -> None:
    home = tmp_path / "site"
    receive(home, proposal)

    for touch in (
        lambda: receive(home, replace(proposal, run_id=run_id)),
        lambda: decide(home, run_id, "approve", "dr"),
        lambda: read_plan(home, run_id),
    ):
        with pytest.raises(ExchangeError, match="run id is up to 64"):
            touch()
    assert list(files_of(tmp_path)) == ["site/plans/r1/proposal.json"]


@settings(deadline=None, max_examples=60)
@given(run_id=st.text(max_size=70))
def test_whatever_a_run_is_called_its_file_stays_inside(
    run_id: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    try:
        home = plans._home(folder, run_id)
    except ExchangeError:
        return
    assert home.resolve().parent == (folder / "plans").resolve()


def test_a_plan_that_never_came_cannot_be_decided(tmp_path: Path, proposal: Proposal) -> None:
    receive(tmp_path, proposal)

    with pytest.raises(ConfigError, match=r"unknown plan 'r2'\. Known: r1"):
        decide(tmp_path, "r2", "approve", "dr")


def test_plans_are_listed_by_age_and_damaged_ones_passed_over(
    tmp_path: Path, proposal: Proposal, caplog: pytest.LogCaptureFixture
) -> None:
    for day, run_id in enumerate(["b", "a", "c"]):
        receive(tmp_path, replace(proposal, run_id=run_id), now=NOW.replace(day=1 + day))
    (tmp_path / "plans" / "a" / "proposal.json").write_text("{")
    (tmp_path / "plans" / "not a plan").mkdir()

    assert [plan.proposal.run_id for plan in list_plans(tmp_path)] == ["b", "c"]
    assert "'a/proposal.json' is damaged" in caplog.text
    assert list_plans(tmp_path / "empty") == []


def test_a_plan_copied_to_another_id_is_damaged(tmp_path: Path, proposal: Proposal) -> None:
    receive(tmp_path, proposal)
    (tmp_path / "plans" / "r1").rename(tmp_path / "plans" / "r9")

    with pytest.raises(CheckpointError, match="is of another run"):
        read_plan(tmp_path, "r9")


def test_a_coordinator_cannot_fill_the_disk_with_plans(
    tmp_path: Path, proposal: Proposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MOST", 2)
    for run_id in ("a", "b"):
        receive(tmp_path, replace(proposal, run_id=run_id))

    with pytest.raises(TooManyPlans) as told:
        receive(tmp_path, replace(proposal, run_id="c"))

    assert code_of(told.value) == "too-many-plans"
    assert receive(tmp_path, replace(proposal, run_id="a")).proposal.run_id == "a"


DEEP = ["[" * 100_000, '{"a":' * 9999]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"name": 3}', *DEEP])
def test_a_text_that_is_no_run_is_refused(proposal: Proposal, text: str) -> None:
    with pytest.raises(ExchangeError, match="cannot be read by this version"):
        run_of(replace(proposal, run=text))


def answered(verdict: Verdict, decision: str | None = None, *, paused: bool = False) -> Standing:
    made = decision and plans.Decision(
        decision=decision,  # type: ignore[arg-type]
        who="dr", when="", why="", digest="",
    )  # fmt: skip
    return standing("st-anna", verdict, made or None, images=60, paused=paused)


def test_a_person_approves_what_the_policy_leaves_open() -> None:
    assert answered(WAITING) == Standing(
        site="st-anna", state="waiting", code="not-approved", images=0
    )
    assert answered(WAITING, "approve") == Standing(
        site="st-anna", state="approved", code="", images=60
    )
    assert answered(WAITING, "deny").code == "denied"


def test_a_person_approves_nothing_against_the_policy() -> None:
    """``plans.standing``: "Guarantee: a person's approval overrides no limit of the policy"."""
    refused = Verdict(state="refused", codes=("policy-method",), sentences=("No.",))
    closed = Verdict(
        state="waiting", codes=("not-approved", "policy-hours"), sentences=("You.", "Later.")
    )

    assert (answered(refused, "approve").state, answered(refused, "approve").images) == (
        "refused",
        0,
    )
    assert (answered(closed, "approve").state, answered(closed, "approve").code) == (
        "waiting",
        "policy-hours",
    )


def test_a_person_s_no_and_a_pause_stand_against_what_the_policy_approves() -> None:
    approved = Verdict(state="approved", codes=(), sentences=())

    assert answered(approved).state == "approved"
    assert answered(approved, "deny").state == "refused"
    assert answered(approved, paused=True).code == "paused"
