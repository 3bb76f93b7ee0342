"""A coordinator goes by commands from a fine-tuned run to its release: fetch, export, verify."""

import json
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loopback import make_workspace
from published import counts, finished, tuned
from scored import asking, paint
from served import enrolled, make_study, served, until
from typed import typed

from confrere_client.daemon.loop import Daemon
from confrere_client.hospital.plans import decide, list_plans
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.loading import dump
from confrere_server.membership.workspace import Workspace
from confrere_server.runs import conduct
from confrere_server.runs.queue import Folder, find_run

POLICIES: Mapping[str, str] = {"north": "{threads: 1}", "south": "{threads: 1, evaluation: false}"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conduct, "PROPOSE_EVERY_S", 0.2)


def ran(line: str) -> str:
    done = typed(line)
    assert done.code == 0, done.err
    return done.out


def released(workspace: Workspace, run: Folder) -> tuple[dict[str, Any], set[str]]:
    """Fetch a run into ./run, export it to ./release, verify both; return card and files."""
    name, hub = run.order.id, shlex.quote(str(workspace.folder))
    ran(f"server fetch {name} --dir {hub} --out run")
    assert f"sound: run {name}" in ran(f"verify run --key {hub}/keys/signing.pub")
    ran("export run --out release --key export.key")
    said = ran("verify release --key export.pub")
    assert f"the coordinator's seal is sound: run {name}" in said
    card = json.loads(Path("release/card.json").read_text())
    return card, {path.name for path in Path("release").iterdir()}


@pytest.mark.parametrize("head", ["shared", "local"])
def test_a_fine_tuned_run_is_released_with_what_sites_counted(head: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    run = finished(workspace, tuned(head=head), {"north": counts(), "south": "nothing-to-score"})

    card, there = released(workspace, run)

    assert {"encoder.safetensors", "task.json", "evaluation.json"} <= there
    assert ("task.safetensors" in there) == (head == "shared")
    assert card["scored_by_sites"]["sites"] == 1


def test_a_run_that_nobody_scored_is_released_from_where_another_was(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    released(workspace, finished(workspace, tuned(), {"north": counts()}))

    card, there = released(workspace, finished(workspace, tuned(head="local", evaluation=None)))

    assert not there & {"evaluation.json", "task.safetensors"}
    assert any(limit.startswith("Nothing was measured on test") for limit in card["limits"])


@contextmanager
def at_work(site: SiteFolder) -> Iterator[None]:
    daemon = Daemon(site=site)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield
    finally:
        daemon.stop.set()
        thread.join()


def submitted(workspace: Workspace) -> Folder:
    run = asking()
    run = replace(run, federation=replace(run.federation, rounds=1, min_sites=2, quorum=1.0))
    Path("run.yaml").write_text(dump(run))
    said = ran(f"server submit run.yaml --dir {shlex.quote(str(workspace.folder))}")
    told = next(line for line in said.splitlines() if line.startswith("tuned-"))
    return find_run(workspace.runs, told.partition(":")[0])


def planned(site: SiteFolder, run: Folder) -> bool:
    return any(plan.proposal.run_id == run.order.id for plan in list_plans(site.folder))


def test_a_federation_at_work_ends_in_a_release_that_verifies(tmp_path: Path) -> None:
    with served(make_study(tmp_path / "study")) as server, ExitStack() as stack:
        workspace = server.workspace
        sites = [enrolled(workspace, tmp_path / name, name, POLICIES[name]) for name in POLICIES]
        for site in sites:
            paint(site.folder / "scans.npz")
            add(site.folder, "ward", site.folder / "scans.npz", one_image_per_patient=True)
            stack.enter_context(at_work(site))
        run = submitted(workspace)
        for site in sites:
            until(partial(planned, site, run), 60)
            decide(site.folder, run.order.id, "approve", "dpo")
        until(lambda: run.standing.state in ("done", "failed"), 120)
        assert run.standing.state == "done", run.standing.why

    card, there = released(workspace, run)

    told, page = card["scored_by_sites"], Path("release/card.md").read_text()
    assert {"task.safetensors", "task.json", "evaluation.json", "rounds.json"} <= there
    assert (told["sites"], told["asked"]) == (1, 2)  # south's policy lets no counts leave
    assert told["smallest_cell"] == 10
    assert told["classes"].keys() == {"b"}  # of two, the other is its mirror
    assert 0 <= told["pooled"]["AUC"]["low"] <= told["pooled"]["AUC"]["high"] <= 1
    assert f"1 of 2 sites told of {told['images']} images" in page
    assert {site["site"] for site in card["data"]["sites"]} == {"north", "south"}
