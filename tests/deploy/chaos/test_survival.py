"""One misfortune at a time, against a federation that stands: what each costs, and what not."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from federation import Federation, Wire, wait_until
from flwr.app import ConfigRecord, RecordDict

from confrere_client.daemon.fleet import Line
from confrere_client.hospital.plans import decide
from confrere_client.hospital.site import open_site
from confrere_common.exchange import Update
from confrere_common.pki.tls import client_context
from confrere_common.proposal import Standing
from confrere_common.wire import answer_records, read_task, standing_records
from confrere_server.runs.queue import Folder

pytestmark = pytest.mark.long

SOME = {"quorum": 0.5}
"""Three sites begin, and a round counts without one of them."""

MINUTES = {"steps_per_round": 100_000}
"""A round that takes longer than any test."""


DENIED = {"code": "denied", "round": 1}


def begun(standing: Federation, site: str, run: Folder, *, steps: bool = False) -> int:
    """Wait until the site's worker has the run's round, and does steps; return its process."""

    def at_work() -> int | None:
        said = json.loads((standing.folder(site) / "status.json").read_bytes())
        training = said.get("training") or {}
        ours = training.get("run") == run.path.name and (training.get("step") or not steps)
        return standing.pid(f"{site}/worker") if ours else None

    return int(wait_until(at_work, 60, f"{site} trains"))


def refusals(standing: Federation, run: Folder, site: str) -> set[str]:
    rows = standing.events("server", "answered", run)
    return {row["refused"] for row in rows if row["site"] == site and row["refused"]}


def joined(standing: Federation, run: Folder) -> list[set[str]]:
    """Return the sites of every closed round."""
    return [set(facts["sites"].split(",")) for facts in standing.closed(run)]


def gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# ------------------------------------------------------------------ daemon and worker


def test_an_update_that_was_not_sent_is_sent_once_without_training_again(
    standing: Federation,
) -> None:
    run = standing.submit("unsent", 1, train={"steps_per_round": 100})
    begun(standing, "beta", run)
    standing.signal("beta", signal.SIGSTOP)
    wait_until(lambda: not gone_quiet(standing, "beta", run), 30, "an update lies in the outbox")

    standing.kill("beta")
    standing.start_site("beta")
    standing.wait(run, 60)

    assert len(standing.events("beta", "round begun", run)) == 1
    assert len(standing.events("beta", "update sent", run)) == 1
    assert joined(standing, run) == [{"alpha", "beta", "gamma"}]


def gone_quiet(standing: Federation, site: str, run: Folder) -> bool:
    """Say whether the site's outbox holds nothing newer than the run's begin."""
    since = (run.path / "order.json").stat().st_mtime
    boxes = (standing.folder(site) / "outbox").glob("*.box")
    return all(box.stat().st_mtime < since for box in boxes)


def test_a_worker_that_dies_with_its_round_twice_declines_it_and_the_run_goes_on(
    standing: Federation,
) -> None:
    run = standing.submit("worker", 1, train={"steps_per_round": 1000}, **SOME)
    first = begun(standing, "beta", run)

    standing.kill("beta/worker")
    wait_until(lambda: standing.pid("beta/worker") not in (None, first), 30)
    standing.kill("beta/worker")
    standing.wait(run, 60)

    assert refusals(standing, run, "beta") == {"worker-died"}
    assert joined(standing, run) == [{"alpha", "gamma"}]


def test_no_worker_outlives_its_daemon(standing: Federation) -> None:
    run = standing.submit("orphan", 1, train=MINUTES)
    worker = begun(standing, "alpha", run, steps=True)

    standing.kill("alpha")

    wait_until(lambda: gone(worker), 5, "the worker has ended")


def test_a_hospital_that_takes_its_approval_back_trains_no_further(standing: Federation) -> None:
    run = standing.submit("denied", 1, train=MINUTES)
    worker = begun(standing, "alpha", run, steps=True)

    decide(standing.folder("alpha"), run.path.name, "deny", "dpo")

    wait_until(lambda: gone(worker), 15, "the worker has ended")
    wait_until(lambda: standing.events("alpha", "refused")[-1:] == [DENIED], 5)


# ------------------------------------------------------------------ one site among others


def test_a_site_that_hangs_costs_its_round_a_deadline_and_no_more(standing: Federation) -> None:
    run = standing.submit("stalled", 2, train={"steps_per_round": 200}, deadline_s=5, **SOME)
    begun(standing, "gamma", run)

    standing.signal("gamma", signal.SIGSTOP)
    standing.wait(run, 60)

    assert refusals(standing, run, "gamma") == {"it did not answer in time"}
    assert joined(standing, run) == [{"alpha", "beta"}] * 2


def test_a_site_that_comes_late_enters_at_the_next_round(standing: Federation) -> None:
    (standing.folder("gamma") / "paused").touch()
    run = standing.submit("late", 6, min_sites=2, **SOME)
    wait_until(lambda: standing.closed(run), 60)

    (standing.folder("gamma") / "paused").unlink()
    standing.wait(run, 60)

    assert joined(standing, run)[0] == {"alpha", "beta"}
    assert joined(standing, run)[-1] == {"alpha", "beta", "gamma"}


def test_a_site_whose_disk_is_full_says_so_and_the_run_goes_on(standing: Federation) -> None:
    run = standing.submit("full", 1, **SOME)

    with tiny_disk(standing.folder("beta") / "outbox"):
        standing.wait(run, 60)

    assert refusals(standing, run, "beta") == {"disk-full"}
    assert joined(standing, run) == [{"alpha", "gamma"}]


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """Lay a disk of one page over *folder*."""
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("no file system may be mounted here, so that no disk can be filled")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_site_that_answers_rubbish_is_set_aside_with_a_reason(standing: Federation) -> None:
    standing.kill("beta")
    run = standing.submit("rubbish", 3, **SOME)

    said = RecordDict({"answer": ConfigRecord({"noise": "x" * 99})})
    with_hands(standing, run, [said, RecordDict(), shapeless(run)])
    standing.wait(run, 60)

    told = refusals(standing, run, "beta")
    assert {reason[:24] for reason in told} == {
        "its answer is not of thi",
        "its update was left out:",
    }
    assert joined(standing, run) == [{"alpha", "gamma"}] * 3


def shapeless(run: Folder) -> RecordDict:
    """Return an update of another model, from the site 'beta'."""
    assert run.order.id
    delta = {"w": torch.full((3,), float("nan"))}
    return answer_records(Update(site="beta", round=3, delta=delta, images=10))


def with_hands(standing: Federation, run: Folder, answers: list[RecordDict]) -> None:
    """Be the site 'beta', by its own keys: approve the run, then answer as given."""
    site = open_site(standing.folder("beta"))
    tls = client_context(site.site_chain, site.site_key, site.root)
    known = json.loads((site.folder / "node.json").read_bytes())["node"]
    approval = Standing(site="beta", state="approved", code="", images=24)
    ends, answers = time.monotonic() + 60, list(answers)
    with Line(f"localhost:{standing.port}", tls, site.node_key()) as line:
        line.connect(known=known)
        with line.beating(10):
            while answers and time.monotonic() < ends:
                incoming = line.poll()
                if incoming is None:
                    time.sleep(0.05)
                    continue
                records = line.fetch(incoming)
                if incoming.kind == "query":
                    line.reply(incoming, standing_records(approval))
                else:
                    assert read_task(records).run == run.order.run
                    line.reply(incoming, answers.pop(0))


# ------------------------------------------------------------------ lines, addresses, clocks


def test_a_cut_of_seconds_costs_nothing_but_time(standing: Federation) -> None:
    run = standing.submit("cut", 3)
    wait_until(lambda: standing.closed(run), 60)

    for wire in standing.wires.values():
        wire.cut()
    time.sleep(3)
    for wire in standing.wires.values():
        wire.mend()
    standing.wait(run, 60)

    assert joined(standing, run) == [{"alpha", "beta", "gamma"}] * 3


def test_a_server_that_moved_is_found_once_its_new_address_is_written_down(
    standing: Federation,
) -> None:
    run = standing.submit("moved", 3)
    wait_until(lambda: standing.closed(run), 60)

    standing.wires["alpha"].close()
    standing.wires["alpha"] = Wire(to=standing.port)
    standing.move("alpha", standing.wires["alpha"].port)
    standing.wait(run, 60)

    assert joined(standing, run) == [{"alpha", "beta", "gamma"}] * 3


def test_sites_whose_clocks_are_a_day_off_take_part(
    standing: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build a shifted clock with")
    skew = tmp_path / "skew.so"
    source = Path(__file__).with_name("skew.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", skew, source, "-ldl"], check=True)

    for site, seconds in (("beta", -86_400), ("gamma", 86_400)):
        with monkeypatch.context() as shifted:
            shifted.setenv("LD_PRELOAD", str(skew))
            shifted.setenv("CLOCK_SKEW_S", str(seconds))
            standing.kill(site)
            standing.start_site(site)
    run = standing.submit("skew", 1)
    standing.wait(run, 90)

    assert joined(standing, run) == [{"alpha", "beta", "gamma"}]
    said = json.loads((standing.folder("beta") / "status.json").read_bytes())
    assert said["clock_off_s"] == pytest.approx(-86_400, abs=30)
    for site in ("beta", "gamma"):
        standing.kill(site)


# ------------------------------------------------------------------ the operator


def test_stop_ends_training_at_the_sites_within_seconds(standing: Federation) -> None:
    run = standing.submit("stop", 1, train=MINUTES)
    for site in standing.names:
        begun(standing, site, run)
    workers = [
        wait_until(lambda s=site: standing.pid(f"{s}/worker"), 20) for site in standing.names
    ]

    run.ask_for("stop")

    standing.wait(run, 10, "stopped")
    wait_until(lambda: all(map(gone, workers)), 12, "no worker trains any more")


def test_a_stopped_run_is_resumed_where_it_was(standing: Federation) -> None:
    run = standing.submit("resume", 4)
    wait_until(lambda: standing.closed(run), 60)

    run.ask_for("stop")
    standing.wait(run, 20, "stopped")
    run.ask_for("resume")
    wait_until(lambda: run.standing.state != "stopped", 20)
    standing.wait(run, 60)

    assert [facts["round"] for facts in standing.closed(run)] == [1, 2, 3, 4]


def test_runs_queue_and_one_that_fails_blocks_none(standing: Federation) -> None:
    broken = standing.submit("broken", 1)
    wild = standing.submit("wild", 1, train={"lr": 1e30, "clip_norm": None})
    equal = [standing.submit("equal", 2), standing.submit("equal", 2)]
    (broken.path / "order.json").write_text("{")

    for run in equal:
        standing.wait(run, 90)

    assert broken.standing.state == "failed"
    assert wild.standing.state == "failed"
    assert "loss-not-finite" in wild.standing.why
    assert standing.digests(equal[0]) == standing.digests(equal[1])


def test_a_server_that_finds_its_notes_damaged_goes_by_its_checkpoints(
    standing: Federation,
) -> None:
    run = standing.submit("notes", 4)
    wait_until(lambda: len(standing.closed(run)) == 2, 60)

    standing.kill("server")
    (run.path / "state.json").write_text("{")
    newest = max((run.path / "checkpoints").glob("round-*"))
    content = bytearray((newest / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(content)
    standing.start_server()
    standing.wait(run, 90)

    digests = {facts["round"]: facts["weights"] for facts in standing.closed(run)}
    assert sorted(digests) == [1, 2, 3, 4]
    again = [f["weights"] for f in standing.closed(run) if f["round"] == int(newest.name[-4:])]
    assert len(set(again)) == 1
    assert os.path.exists(run.path / "encoder.safetensors")  # noqa: PTH110
