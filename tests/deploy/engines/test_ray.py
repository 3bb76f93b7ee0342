"""Flower's own engine with Ray gives what plain calls give. Ray starts once for all tests here."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import noise_job

from confrere_deploy.engine import ENGINES
from confrere_server.store import ServerState, newest_state

pytest.importorskip("ray")

# In a process of its own: Ray leaves threads, sockets and signal handlers behind. As many cores for
# a site as there are make Ray start one worker, which takes seconds to load torch, and not several.
CARRY = """
import json, os, sys
from pathlib import Path
from tiny_jobs import noise_job
from confrere_deploy.study.cost import Clock
from confrere_deploy.engine import ENGINES

if __name__ == "__main__":
    clock = Clock(workers=True)
    job = noise_job(
        Path(sys.argv[1]), observe=lambda _: clock.look(), resources={"num_cpus": os.cpu_count()}
    )
    ENGINES.member("ray")(job)
    own = sum(os.times()[:2])
    print(json.dumps({"own_s": own, "all_s": clock.session.cpu_s}))
"""


@dataclass(frozen=True)
class Carried:
    """What both engines made of the same job."""

    inline: ServerState
    ray: ServerState
    cost: dict[str, Any]


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    folder = tmp_path_factory.mktemp("engines")
    tests = Path(__file__).parents[2]
    script = folder / "carry.py"
    script.write_text(CARRY)
    over_ray = subprocess.Popen(
        [sys.executable, str(script), str(folder / "ray")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    inline = ENGINES.member("inline")(noise_job(folder / "inline"))
    said, errors = over_ray.communicate(timeout=180)
    assert over_ray.returncode == 0, errors
    job = noise_job(folder / "ray")
    ray = newest_state(job.folder / "checkpoints", digest=job.digest)
    assert ray is not None
    return Carried(inline, ray, json.loads(said.splitlines()[-1]))


def test_ray_gives_the_numbers_of_the_inline_engine(carried: Carried) -> None:
    ours, theirs = carried.inline, carried.ray

    assert theirs.round == ours.round == 2
    assert ours.weights.keys() == theirs.weights.keys()
    apart = [float((ours.weights[n] - theirs.weights[n]).abs().max()) for n in ours.weights]
    assert max(apart) < 1e-4


def test_ray_s_sites_answer_what_inline_sites_answer(carried: Carried) -> None:
    for ours, theirs in zip(carried.inline.records, carried.ray.records, strict=True):
        assert {s.site: s.images for s in ours.sites} == {s.site: s.images for s in theirs.sites}
        assert not any(site.refused for site in theirs.sites)
        assert theirs.loss == pytest.approx(ours.loss, abs=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_the_work_of_ray_s_processes_is_in_the_cost(carried: Carried) -> None:
    assert carried.cost["all_s"] > carried.cost["own_s"] + 1
