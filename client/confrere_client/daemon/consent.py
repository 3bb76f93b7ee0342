"""What a hospital says to a plan at this moment: its policy, its people, its clock."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from confrere_client.hospital.finetune_text import lets_evaluate, lets_validate
from confrere_client.hospital.plans import Plan, list_plans, read_plan, run_of, standing
from confrere_client.hospital.policy import Policy, judge, read_policy, usable_images
from confrere_client.hospital.registry import open_registered, registered
from confrere_client.hospital.site import SiteFolder
from confrere_common.code import code_digest
from confrere_common.codes import code_of
from confrere_common.config import Run
from confrere_common.errors import ConfigError, ConfrereError
from confrere_common.exchange import Part, Task
from confrere_common.judged import is_due
from confrere_common.log import reason
from confrere_common.preparation import must_be_prepared
from confrere_common.privacy.terms import terms
from confrere_common.proposal import Standing
from confrere_common.validated import is_validated
from confrere_common.weights import nbytes

log = logging.getLogger(__name__)


class PolicyUnreadable(ConfigError):  # noqa: N818  (the code says it better)
    """The hospital's policy has faults, so nothing of it is guessed."""

    code = "policy-unreadable"


def policy_of(site: SiteFolder) -> Policy:
    """Return the policy as it stands on the disk; PolicyUnreadable if it has faults."""
    try:
        return read_policy(site.policy)
    except ConfigError as fault:
        raise PolicyUnreadable(fault.faults, site.policy.name) from None


def judged(site: SiteFolder, plan: Plan, run: Run, *, paused: bool) -> Standing:
    """Return what the site says to *plan*; a ConfrereError if policy or data sets have faults."""
    policy, lent = policy_of(site), registered(site.folder)
    verdict = judge(policy, plan.proposal, run, data_sets=lent, now=datetime.now().astimezone())
    entry = lent.get(verdict.data_set)
    images = usable_images(policy, entry) if entry is not None else 0
    said = standing(site.config.site, verdict, plan.decision, images=images, paused=paused)
    if said.state == "approved" and entry is not None and run.data.preparation is not None:
        must_be_prepared(open_registered(entry).preparation, run.data.preparation)
    if said.state == "approved" and run.privacy is not None and entry is not None:
        return replace(said, privacy=terms(run, entry.patients).told())
    return said


def plan_of_task(site: SiteFolder, run_id: str, task: Task) -> Plan | None:
    """Return the plan of that very run if the task is what it proposed: equal runs may come."""
    for plan in list_plans(site.folder):
        proposal = plan.proposal
        asked = (proposal.run_id, proposal.run, proposal.seed, proposal.code)
        if asked == (run_id, task.run, task.seed, code_digest()):
            return plan
    return None


def plan_of_step(site: SiteFolder, run_id: str) -> Plan | None:
    """Return the plan of a run that is held under secure aggregation, by the code that is here."""
    try:
        plan = read_plan(site.folder, run_id)
        masked = run_of(plan.proposal).secure_aggregation is not None
    except ConfrereError:
        return None
    return plan if masked and plan.proposal.code == code_digest() else None


def against_task(policy: Policy, run: Run, task: Task) -> str:
    """Return the code of what stands against a task of an approved run; '' if nothing does."""
    if task.evaluate:
        if code := against_evaluation(policy, run, task.round, task.part):
            return code
    elif not 1 <= task.round <= run.federation.rounds:
        return "not-approved"  # what was approved ends with its last round
    # Counted, not believed: the proposal's figures are the coordinator's word.
    moved = nbytes(task.weights) * (1 if task.evaluate else 2)
    return "policy-bytes" if moved > policy.max_bytes_per_round else ""


def against_evaluation(policy: Policy, run: Run, round: int, part: Part) -> str:
    """Return why the site scores no model of *round* on patients of *part*; '' if it does."""
    lets, due = (lets_validate, is_validated) if part == "val" else (lets_evaluate, is_due)
    if not lets(policy):
        return "policy-evaluation"
    return "" if due(run, round) else "not-approved"


def too_fine(policy: Policy, text: str) -> bool:
    """Say whether counts that lie ready are of fewer patients than the policy asks for by now."""
    return bool(text) and int(json.loads(text)["smallest"]) < policy.min_cell


def against(site: SiteFolder, run_id: str, *, paused: bool) -> str:
    """Return the code of what now stands against a run that was approved; '' if nothing does."""
    try:
        plan = read_plan(site.folder, run_id)
        return judged(site, plan, run_of(plan.proposal), paused=paused).code
    except ConfrereError as fault:  # somebody is editing the policy: nothing of it is guessed
        log.warning("the plan cannot be judged: %s", reason(fault))
        return code_of(fault)


def visible(policy: Policy) -> Mapping[str, str]:
    """Return the environment that shows the worker no GPU but the policy's."""
    if policy.gpus is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, policy.gpus))}
