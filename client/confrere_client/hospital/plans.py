"""Plans: the runs that were proposed to a site, and what a person there decided on each.

``plans/<run id>/proposal.json`` is written once; ``decision.json`` beside it binds a person's
decision to the digest of the run's text and the code. Run ids come from the network.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confrere_client.hospital.plan import Answer, Decision, Plan, run_of
from confrere_client.hospital.plan_text import summary
from confrere_client.hospital.policy import Verdict
from confrere_common.errors import CheckpointError, ConfigError, ExchangeError, unknown
from confrere_common.proposal import NAME, Proposal, Standing, read_proposal
from confrere_common.storage import atomic_write

__all__ = [
    "Decision",
    "OtherPlan",
    "Plan",
    "TooManyPlans",
    "decide",
    "list_plans",
    "read_plan",
    "receive",
    "run_of",
    "standing",
    "summary",
]

log = logging.getLogger(__name__)

PLANS = "plans"
MOST = 1000
"""Plans that a site keeps: a coordinator cannot fill its disk with them."""


class OtherPlan(ExchangeError):  # noqa: N818  (it is no fault of this site)
    """A proposal differs from the one that came first under its run id."""

    code = "other-plan"


class TooManyPlans(ExchangeError):  # noqa: N818  (it is no fault of this site)
    """A site keeps no more plans."""

    code = "too-many-plans"


def receive(folder: Path, proposal: Proposal, *, now: datetime | None = None) -> Plan:
    """Keep *proposal* in the site's *folder*; one that is there already is returned as it is kept.

    OtherPlan when another came under its run id: only the number of sites may change.
    """
    path = _home(folder, proposal.run_id) / "proposal.json"
    if not path.exists():
        if sum(1 for _ in (folder / PLANS).glob("*/proposal.json")) >= MOST:
            raise TooManyPlans(f"{MOST} plans lie in '{PLANS}': remove those that are done with.")
        return _keep(path, Plan(proposal=proposal, received=_stamp(now)))
    kept = read_plan(folder, proposal.run_id)
    if replace(kept.proposal, sites=proposal.sites) != proposal:
        raise OtherPlan(
            f"the plan '{proposal.run_id}' is not the one that came first under this id: nothing "
            "decided on that one holds for it. Submit it under a new id."
        )
    return kept if kept.proposal == proposal else _keep(path, replace(kept, proposal=proposal))


def read_plan(folder: Path, run_id: str) -> Plan:
    """Return the plan of a run; ConfigError when there is none, CheckpointError if damaged."""
    path = _home(folder, run_id) / "proposal.json"
    if not path.exists():
        known = [found.parent.name for found in (folder / PLANS).glob("*/proposal.json")]
        raise ConfigError([unknown("plan", run_id, known)], "the command")
    plain = _read(path)
    try:
        proposal, received = read_proposal(plain["proposal"]), str(plain["received"])
    except (ExchangeError, KeyError):
        raise CheckpointError(f"the plan '{run_id}' is damaged: remove its folder.") from None
    if proposal.run_id != run_id:
        raise CheckpointError(f"the plan '{run_id}' is of another run: remove its folder.")
    return Plan(proposal=proposal, received=received, decision=_decision(path, proposal))


def list_plans(folder: Path) -> list[Plan]:
    """Return every sound plan, the oldest first; a damaged one is passed over with a warning."""
    found = []
    for path in (folder / PLANS).glob("*/proposal.json"):
        try:
            found.append(read_plan(folder, path.parent.name))
        except (CheckpointError, ExchangeError) as fault:
            log.warning("%s", fault)
    return sorted(found, key=lambda plan: (plan.received, plan.proposal.run_id))


def decide(
    folder: Path,
    run_id: str,
    decision: Answer,
    who: str,
    why: str = "",
    *,
    now: datetime | None = None,
) -> Decision:
    """Write down what *who* decided on the plan that lies here; it binds run text and code."""
    plan = read_plan(folder, run_id)
    made = Decision(decision=decision, who=who, when=_stamp(now), why=why, digest=plan.digest)
    _write(_home(folder, run_id) / "decision.json", asdict(made))
    return made


def standing(
    site: str, verdict: Verdict, decision: Decision | None, *, images: int, paused: bool = False
) -> Standing:
    """Return what to answer: the policy's refusal, a person's no, a pause, then what is waited for.

    Guarantee: a person's approval overrides no limit of the policy, and no hours.
    """
    if verdict.state == "refused":
        return Standing(site=site, state="refused", code=verdict.codes[0], images=0)
    if decision is not None and decision.decision == "deny":
        return Standing(site=site, state="refused", code="denied", images=0)
    approved = decision is not None and decision.decision == "approve"
    open_ = [code for code in verdict.codes if not (approved and code == "not-approved")]
    open_ += ["paused"] if paused else []
    if open_:
        return Standing(site=site, state="waiting", code=open_[0], images=0)
    return Standing(site=site, state="approved", code="", images=images)


def _home(folder: Path, run_id: str) -> Path:
    """Return a plan's folder; ExchangeError for an id that is not safe as a folder's name."""
    if NAME.fullmatch(run_id) is None:
        raise ExchangeError("a run id is up to 64 letters, digits, dots, dashes and underscores.")
    return folder / PLANS / run_id


def _keep(path: Path, plan: Plan) -> Plan:
    _write(path, {"received": plan.received, "proposal": plan.proposal.as_dict()})
    return plan


def _decision(path: Path, proposal: Proposal) -> Decision | None:
    """Return what was decided on exactly this proposal; what cannot be read decides nothing."""
    place = path.with_name("decision.json")
    if not place.exists():
        return None
    try:
        found = Decision(**_read(place))
    except (CheckpointError, TypeError):
        log.warning("the decision on '%s' is damaged and does not count", proposal.run_id)
        return None
    sound = found.decision in ("approve", "deny") and found.digest == proposal.digest
    return found if sound else None


def _stamp(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(plain, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise CheckpointError(f"'{path.parent.name}/{path.name}' is damaged.")
    return plain
