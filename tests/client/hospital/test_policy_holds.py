"""No run that a coordinator can write weakens a hospital's policy."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import LIMITS, RULES, policies
from proposed import DATA, NOON, asking, proposal_of

from confrere_client.hospital.plan import run_of
from confrere_client.hospital.policy import Policy, Verdict, effective, in_hours, judge
from confrere_client.hospital.registry import Registered
from confrere_common.codes import CODES
from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ExchangeError
from confrere_common.loading import dump
from confrere_common.method import METHODS
from confrere_common.proposal import Proposal


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
