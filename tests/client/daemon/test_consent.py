"""A daemon never trains unless policy and person, or the policy alone, approved this very plan."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flwr.app import RecordDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loopback import make_workspace, serving
from served import federated
from tiny_runs import tuning

from confrere_client.daemon.consent import against_task
from confrere_client.daemon.fleet import Incoming, Metadata, ObjectTree, make_message
from confrere_client.daemon.hands import Hands
from confrere_client.daemon.loop import Daemon
from confrere_client.hospital.join import join
from confrere_client.hospital.plans import decide
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.code import bundle_digest, code_digest
from confrere_common.codes import CODES
from confrere_common.config import Run
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.judged import evaluation_of
from confrere_common.loading import dump
from confrere_common.preparation import Preparation
from confrere_common.proposal import Proposal
from confrere_common.wire import (
    proposal_records,
    read_answer,
    read_standing_records,
    task_records,
)
from confrere_server.membership.roster import invite

RUN = dump(federated())
OTHER_RUN = dump(federated(rounds=3))
PROPOSAL = Proposal(
    run_id="run-1",
    study="eyes",
    run=RUN,
    code=code_digest(),
    sites=2,
    bytes_down=100,
    bytes_up=100,
    seed=0,
)
CLASS = {"study": "eyes", "methods": ["simmim"], "data_sets": ["derm"], "max_rounds": 2}

OTHER = replace(PROPOSAL, run=OTHER_RUN)

POLICIES: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, "ask"),
    "this digest": ({"preapproved": [PROPOSAL.digest]}, "approve"),
    "another digest": ({"preapproved": [OTHER.digest]}, "ask"),
    "this class": ({"preapproved_classes": [CLASS]}, "approve"),
    "another class": ({"preapproved_classes": [{**CLASS, "max_rounds": 1}]}, "ask"),
    "another method": ({"methods": ["mae"], "preapproved": [PROPOSAL.digest]}, "refuse"),
    "more sites": ({"min_sites": 3, "preapproved_classes": [CLASS]}, "refuse"),
    "fewer bytes": ({"max_bytes_per_round": 150, "preapproved": [PROPOSAL.digest]}, "refuse"),
    "no data": ({"data_sets": [], "preapproved": [PROPOSAL.digest]}, "refuse"),
    "privacy": ({"max_epsilon": 3.0, "preapproved": [PROPOSAL.digest]}, "refuse"),
    "secrecy": (
        {"require_secure_aggregation": True, "preapproved": [PROPOSAL.digest]},
        "refuse",
    ),
    "unreadable": ({"no such field": 1}, "refuse"),
}


@dataclass
class Told:
    """A line's methods, over no line: it gives what the test laid in, and keeps what is sent."""

    records: RecordDict
    bundle_asked: str
    sent: list[RecordDict] = field(default_factory=list)

    def fetch(self, _: Incoming) -> RecordDict:
        return self.records

    def bundle(self, _: int) -> str:
        return self.bundle_asked

    def reply(self, _: Incoming, content: RecordDict) -> int:
        self.sent.append(content)
        return 1


TASK = Task(run=RUN, round=1, seed=0, weights={"w": torch.zeros(3)})


@dataclass(frozen=True, kw_only=True)
class Case:
    policy: str = "default"
    decided: str = ""
    decided_on: Proposal = PROPOSAL
    paused: bool = False
    proposal: Proposal = PROPOSAL
    task: Task = TASK
    group: str = "run-1"
    bundle: str = bundle_digest()

    @property
    def due(self) -> bool:
        """Whether the daemon may train."""
        policy, run = POLICIES[self.policy][1], RUN
        if self.policy == "another digest" and self.proposal == OTHER:
            policy, run = "approve", OTHER_RUN
        person = self.decided if self.decided_on == self.proposal else ""
        untouched = (self.task.run, self.task.seed, self.group) == (run, 0, "run-1")
        return (
            self.proposal == replace(PROPOSAL, run=run)
            and untouched
            and not self.task.evaluate  # this run trains no task
            and self.bundle == bundle_digest()
            and not self.paused
            and policy != "refuse"
            and person != "deny"
            and (person == "approve" or policy == "approve")
        )


OTHER_TASKS = (
    TASK,
    replace(TASK, round=2),
    replace(TASK, run=OTHER_RUN),
    replace(TASK, run=RUN + " "),
    replace(TASK, run="{}"),
    replace(TASK, seed=1),
    replace(TASK, round=2, evaluate=True),
)
OTHER_PROPOSALS = (
    PROPOSAL,
    replace(PROPOSAL, code="ab" * 32),
    replace(PROPOSAL, study="ears"),
    replace(PROPOSAL, run=OTHER_RUN),
)
CASES = st.builds(
    Case,
    policy=st.sampled_from(sorted(POLICIES)),
    decided=st.sampled_from(["", "approve", "approve", "deny"]),
    decided_on=st.sampled_from([PROPOSAL, PROPOSAL, PROPOSAL, OTHER_PROPOSALS[3]]),
    paused=st.sampled_from([False, False, False, True]),
    proposal=st.sampled_from([PROPOSAL, PROPOSAL, PROPOSAL, *OTHER_PROPOSALS]),
    task=st.sampled_from([OTHER_TASKS[0], OTHER_TASKS[0], *OTHER_TASKS]),
    group=st.sampled_from(["run-1", "run-1", "run-1", "run-2", ""]),
    bundle=st.sampled_from([bundle_digest()] * 3 + ["ab" * 32, ""]),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteFolder]:
    folder = tmp_path_factory.mktemp("site")
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16), np.uint8)
    np.savez(folder / "images.npz", train_images=images)
    with serving(make_workspace(tmp_path_factory.mktemp("server") / "study")) as workspace:
        join(invite(workspace, "north"), folder / "site")
    add(folder / "site", "derm", folder / "images.npz")
    logging.disable(logging.WARNING)  # every refusal is logged, and there are many here
    yield open_site(folder / "site")
    logging.disable(logging.NOTSET)


def incoming(kind: str, group: str) -> Incoming:
    envelope = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="",
        group_id=group, created_at=0.0, ttl=1.0, message_type=kind,
    )  # fmt: skip
    return Incoming(message=make_message(envelope, RecordDict()), tree=ObjectTree())


def played(site: SiteFolder, case: Case) -> tuple[bool, list[RecordDict], list[str]]:
    """Propose, decide, ask; return whether it trains, what it said, and what it wrote down."""
    for name in ("plans", "spool", "outbox"):
        shutil.rmtree(site.folder / name, ignore_errors=True)
    site.policy.write_text(yaml.safe_dump(POLICIES[case.policy][0]))
    (site.folder / "paused").unlink(missing_ok=True)
    site.audit.unlink(missing_ok=True)
    daemon = Daemon(site=site)
    hands = Hands(folder=site.folder, log_file=site.folder / "worker.log", module="no.such.worker")
    daemon.__dict__["hands"] = hands

    if case.decided:
        _decided_before(site, case)
    line = Told(proposal_records(case.proposal), case.bundle)
    daemon._take(line, incoming("query", "run-1"))  # type: ignore[arg-type]
    if case.decided and case.decided_on == case.proposal and _kept(site):
        decide(site.folder, "run-1", case.decided, "somebody")  # type: ignore[arg-type]
    if case.paused:
        (site.folder / "paused").touch()
    line.records = task_records(case.task)
    daemon._take(line, incoming("train", case.group))  # type: ignore[arg-type]

    trains = hands.errand is not None
    hands.drop()
    events = [json.loads(row)["event"] for row in site.audit.read_text().splitlines()]
    return trains, line.sent, events


def _decided_before(site: SiteFolder, case: Case) -> None:
    """Lay a decision there that was made on another plan of the same run's id."""
    if case.decided_on == case.proposal:
        return
    where = site.plans / "run-1"
    where.mkdir(parents=True)
    made = {"decision": case.decided, "who": "x", "when": "y", "why": ""}
    (where / "decision.json").write_text(json.dumps(made | {"digest": case.decided_on.digest}))


def _kept(site: SiteFolder) -> bool:
    return (site.plans / "run-1" / "proposal.json").exists()


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=CASES)
@example(case=Case(decided="approve"))
@example(case=Case(policy="this digest"))
@example(case=Case(policy="this class"))
@example(case=Case(policy="another digest", proposal=OTHER, task=OTHER_TASKS[2]))
@example(case=Case(policy="this digest", decided="deny"))
@example(case=Case(policy="another method", decided="approve"))
@example(case=Case(decided="approve", task=OTHER_TASKS[2]))
@example(case=Case(decided="approve", bundle="ab" * 32))
@example(case=Case(decided="approve", decided_on=OTHER_PROPOSALS[3]))
@example(case=Case(decided="approve", proposal=OTHER_PROPOSALS[1], decided_on=OTHER_PROPOSALS[1]))
def test_it_trains_only_what_was_approved(site: SiteFolder, case: Case) -> None:
    trains, sent, events = played(site, case)

    assert trains == case.due, case
    assert ("round begun" in events) == case.due
    standing = read_standing_records(sent[0])
    assert standing.code in {"", *CODES}
    if not case.due:
        answer = read_answer(sent[1])
        assert isinstance(answer, Refusal)
        assert answer.reason in CODES
        assert not (site.folder / "spool").exists()


def test_an_approved_run_that_demands_another_preparation_is_refused_before_its_images_are_read(
    site: SiteFolder,
) -> None:
    run = federated()
    run = replace(run, data=replace(run.data, preparation=Preparation(image_px=32)))
    wanted = replace(PROPOSAL, run=dump(run))
    case = Case(
        decided="approve",
        decided_on=wanted,
        proposal=wanted,
        task=replace(TASK, run=wanted.run),
    )

    trains, sent, _ = played(site, case)

    answer = read_answer(sent[1])
    assert not trains
    assert read_standing_records(sent[0]).code == "not-approved"  # before anybody decided
    assert isinstance(answer, Refusal)
    assert answer.reason == "other-preparation"


def test_a_changed_plan_under_an_approved_id_is_another_plan(site: SiteFolder) -> None:
    assert played(site, Case(decided="approve"))[0]
    daemon = Daemon(site=site)
    line = Told(proposal_records(replace(PROPOSAL, run=OTHER_RUN)), bundle_digest())
    daemon._take(line, incoming("query", "run-1"))  # type: ignore[arg-type]

    said = read_standing_records(line.sent[0])

    assert (said.state, said.code) == ("refused", "other-plan")


def test_counts_that_lie_ready_stay_when_the_policy_asks_for_larger_cells(
    site: SiteFolder,
) -> None:
    daemon = Daemon(site=site)
    counts = json.dumps({"classes": 2, "smallest": 5, "tallies": []})
    update = Update(site="north", round=2, delta={}, images=7, description=counts)
    daemon.outbox.put("key", "run-1", update)
    line: Any = Told(RecordDict(), "")

    sent = []
    for least in (6, 5):
        site.policy.write_text(f"min_cell: {least}")
        daemon._waiting = incoming("train", "run-1")
        sent.append((daemon._send(line, "run-1", "key"), len(line.sent)))

    assert sent == [(False, 0), (True, 1)]


@pytest.mark.parametrize("kind", ["query", "train", "evaluate", "system", "train.x"])
@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        proposal_records(PROPOSAL),
        task_records(TASK),
        *({"proposal": text} for text in ("", "[]", "{}", '{"run": 1}', "[" * 5000, "\x00")),
    ],
)
def test_rubbish_is_answered_with_a_code_and_starts_nothing(
    site: SiteFolder, kind: str, records: Any
) -> None:
    from flwr.app import ConfigRecord

    if isinstance(records, dict) and not isinstance(records, RecordDict):
        records = RecordDict({"proposal": ConfigRecord({"json": records["proposal"]})})
    site.policy.write_text("{}")
    daemon = Daemon(site=site)
    line = Told(records, "")

    daemon._take(line, incoming(kind, "run-1"))  # type: ignore[arg-type]

    assert len(line.sent) == 1
    assert daemon.hands.errand is None
    (body,) = (part for name, part in line.sent[0].items() if name != "witness")
    text = str(dict(body))  # type: ignore[call-overload]
    assert "Traceback" not in text
    assert "/" not in text.replace("://", "")


@pytest.mark.parametrize(
    ("policy", "round", "due"),
    [
        (Policy(), 2, ""),
        (Policy(), 1, "not-approved"),
        (Policy(), 3, "not-approved"),
        (Policy(evaluation=False), 2, "policy-evaluation"),
        (Policy(require_secure_aggregation=True), 2, "policy-evaluation"),
        (Policy(max_bytes_per_round=11), 2, "policy-bytes"),
    ],
)
def test_a_model_is_scored_only_as_plan_and_policy_say(
    policy: Policy, round: int, due: str
) -> None:
    task = replace(TASK, round=round, evaluate=True)

    assert against_task(policy, tuning(), task) == due


@pytest.mark.parametrize(
    ("policy", "round", "due"),
    [
        (Policy(), 1, ""),
        (Policy(), 2, ""),
        (Policy(), 0, "not-approved"),
        (Policy(), 3, "not-approved"),
        (Policy(evaluation=False), 1, "policy-evaluation"),
        (Policy(metrics=("loss",)), 1, "policy-evaluation"),
        (Policy(require_secure_aggregation=True), 1, "policy-evaluation"),
        (Policy(max_bytes_per_round=11), 1, "policy-bytes"),
    ],
)
def test_a_model_is_validated_after_every_round_and_only_as_plan_and_policy_say(
    policy: Policy, round: int, due: str
) -> None:
    task = replace(TASK, round=round, evaluate=True, part="val")

    assert against_task(policy, tuning(), task) == due


@pytest.mark.parametrize(
    "run", [tuning(head="local"), tuning(evaluation=None), tuning(evaluation={"every": 1})]
)
def test_where_no_round_is_chosen_none_is_validated(run: Run) -> None:
    task = replace(TASK, round=1, evaluate=True, part="val")
    chosen = run.finetune is not None and run.finetune.head == "shared" and evaluation_of(run)

    assert against_task(Policy(), run, task) == ("" if chosen else "not-approved")
