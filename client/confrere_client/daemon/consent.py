"""What a hospital says to a plan at this moment: its policy, its people, its clock."""

from collections.abc import Mapping
from datetime import datetime

from confrere_client.hospital.plans import Plan, standing
from confrere_client.hospital.policy import Policy, judge, read_policy, usable_images
from confrere_client.hospital.registry import registered
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.proposal import Standing


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
    return standing(site.config.site, verdict, plan.decision, images=images, paused=paused)


def visible(policy: Policy) -> Mapping[str, str]:
    """Return the environment that shows the worker no GPU but the policy's."""
    if policy.gpus is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, policy.gpus))}
