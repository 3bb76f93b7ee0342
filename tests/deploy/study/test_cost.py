"""What a study takes is counted over its sessions and its processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confrere_deploy.study.cost import NOTE, Clock, Spent, Workers

WORKER = """
import os, time
while time.process_time() < 0.4: pass
print(os.getpid(), flush=True)
time.sleep(60)
"""
"""It computes for 0.4 s, says who it is, and waits to be ended."""

PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {WORKER!r}]).wait()
"""
"""It stands between us and the worker, as Ray's own server does."""


def test_a_resumed_session_adds_to_those_before(tmp_path: Path) -> None:
    before = [
        {"wall_s": 100.0, "cpu_s": 50.0, "peak_rss_mib": 1e6},
        {"wall_s": 10.0, "cpu_s": 5.0, "peak_rss_mib": 7.0},
    ]
    (tmp_path / NOTE).write_text(json.dumps({"sessions": before}))
    clock = Clock()

    clock.keep(tmp_path, resumed=True)
    with clock:
        spent = clock.total

    assert 110 < spent.wall_s < 115
    assert 55 <= spent.cpu_s < 60
    assert spent.peak_rss_mib == 1e6
    assert len(json.loads((tmp_path / NOTE).read_bytes())["sessions"]) == 3
    assert not clock.doubts


def test_a_session_that_is_killed_was_noted(tmp_path: Path) -> None:
    Clock().keep(tmp_path, resumed=False)  # and nothing more of it is heard
    second = Clock()

    second.keep(tmp_path, resumed=True)

    assert len(second.earlier) == 1
    assert second.earlier[0].peak_rss_mib > 1


@pytest.mark.parametrize("content", [None, "{", "{}", '{"sessions": [{"wall_s": 1}]}', "[]"])
def test_a_lost_note_is_admitted(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / NOTE).write_text(content)
    clock = Clock()

    clock.keep(tmp_path, resumed=True)

    assert clock.earlier == ()
    assert "of the last session alone" in clock.doubts[0]


def test_a_full_disk_does_not_end_the_study(tmp_path: Path) -> None:
    clock = Clock()
    clock.keep(tmp_path, resumed=False)
    (tmp_path / NOTE).unlink()
    tmp_path.rmdir()
    tmp_path.write_text("no folder any more")

    with clock:
        pass

    assert clock.total.wall_s > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_workers_count_though_nobody_waits_for_them() -> None:
    clock, workers = Clock(workers=True), Workers()
    child = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    worker = int(child.stdout.readline())

    workers.look()
    clock.look()
    seen = workers.cpu_s
    os.kill(worker, signal.SIGKILL)
    child.communicate()
    workers.look()

    assert seen >= 0.35
    assert workers.cpu_s == seen
    assert workers.peak_mib > 5
    assert clock.session.cpu_s >= 0.35
    assert not clock.doubts


def test_a_clock_runs_by_itself() -> None:
    clock = Clock()
    time.sleep(0.01)

    spent = clock.session

    assert isinstance(spent, Spent)
    assert 0.01 <= spent.wall_s < 5
