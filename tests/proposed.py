"""A run that a coordinator proposes to a hospital, and what a policy says of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tiny_runs import tiny_run

from confrere_client.hospital.policy import Policy, RunClass, Verdict, judge
from confrere_client.hospital.registry import Registered
from confrere_common.config import Run
from confrere_common.family import Named
from confrere_common.loading import dump
from confrere_common.proposal import Proposal

NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001  (local time)


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


ALLOWED = RunClass(study="derm", methods=("simclr",), data_sets=("derm",), max_rounds=2)
