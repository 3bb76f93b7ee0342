"""What a coordinator takes from a finished run, and what the logs say of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import make_workspace
from published import finished, tuned
from safetensors.torch import load
from served import federated

from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.pki.keys import signing_public
from confrere_common.release import DECODER, load_release
from confrere_deploy.federation.fetching import checked, fetch, heads_told, rows_of, witness_in
from confrere_server.membership.seal import unseal
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.queue import submit


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "study")


def test_what_is_fetched_can_be_loaded_and_checked_elsewhere(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = finished(workspace)

    paths = fetch(workspace, folder, tmp_path / "out" / "deep")

    assert all(path.parent == tmp_path / "out" / "deep" for path in paths)
    there = {path.name: path for path in paths}
    load_release(there["encoder.safetensors"])
    key = signing_public(there["coordinator.pub"].read_bytes())
    release = unseal("release", there["release.json"].read_bytes(), key)
    assert release["run"] == folder.order.id
    assert "signing.key" not in there


def fetched(workspace: Workspace, run: Run, target: Path) -> tuple[set[str], dict[str, Any]]:
    names = {path.name for path in fetch(workspace, finished(workspace, run), target)}
    report: dict[str, Any] = json.loads((target / "report.json").read_text())
    return names, report


def test_a_fine_tuning_leaves_encoder_network_and_how_it_was_scored(
    workspace: Workspace, tmp_path: Path
) -> None:
    older = tmp_path / "out" / DECODER
    older.parent.mkdir()
    older.write_bytes(b"of an older run")

    names, report = fetched(workspace, tuned(), tmp_path / "out")

    assert not older.exists()
    whole = load((tmp_path / "out/task.safetensors").read_bytes())
    assert {"encoder.safetensors", "task.safetensors", "task.json", "evaluation.json"} <= names
    assert any(name.startswith("head.") for name in whole)
    assert report["kind"] == "finetune"
    assert report["sites"] == [{"site": "north", "images": 9, "classes": {}, "test_patients": 0}]
    assert "No site told enough of any class" in " ".join(report["warnings"])
    assert (tmp_path / "out/report.html").read_text().count("<section") >= 3


def test_a_head_that_stayed_at_its_sites_is_not_among_them(
    workspace: Workspace, tmp_path: Path
) -> None:
    run = tuned(head="local", evaluation=None)

    names, report = fetched(workspace, run, tmp_path / "out")

    assert not names & {"task.safetensors", "evaluation.json"}
    assert "evaluation" not in report
    assert "The run asks for none (finetune.evaluation)." in " ".join(report["warnings"])


@pytest.mark.parametrize("state", ["queued", "gathering", "training", "failed", "stopped"])
def test_a_run_that_is_not_done_has_nothing_to_fetch(
    workspace: Workspace, tmp_path: Path, state: str
) -> None:
    folder = submit(workspace.runs, federated())
    folder.stand(replace(folder.standing, state=state))  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=f"it is {state}"):
        fetch(workspace, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_log_is_told_by_run(workspace: Workspace) -> None:
    chain = workspace.chain()
    chain.append("asked", run="one", round=1)
    chain.append("asked", run="two", round=2)

    assert len(rows_of(workspace.audit, "")) == 3
    (row,) = rows_of(workspace.audit, "two")
    assert row.endswith("round=2")
    assert rows_of(workspace.audit.with_name("none"), "") == []


def test_a_log_cannot_draw_on_the_terminal(workspace: Workspace) -> None:
    workspace.chain().append("site head", run="one", head="\x1b]0;owned\x07\nall is well")

    (row,) = rows_of(workspace.audit, "one")

    assert row.isprintable()
    assert "all is well" in row


@pytest.mark.parametrize(
    "line",
    ["rubbish", "[]", "{}", '{"facts": 3}', '{"facts": {}}', '{"facts": {}, "at": 3}', "\xff",
     '{"facts": {}, "at": "x", "event": null}'],
)  # fmt: skip
def test_a_damaged_line_is_told_and_found(workspace: Workspace, line: str) -> None:
    with workspace.audit.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")

    rows = rows_of(workspace.audit, "")

    assert rows[-1] == "(a line that cannot be read; see audit verify)"
    assert len(rows) == 2
    key = workspace.signing_key().public_key()
    assert checked(workspace.audit, key).faults
    assert json.loads(workspace.audit.read_text(errors="replace").splitlines()[0])


HASH = "ab" * 32


def test_a_cut_log_is_told_by_what_a_witness_kept(workspace: Workspace, tmp_path: Path) -> None:
    workspace.chain().append("run begun", run="one")
    length, head = workspace.chain().head()
    kept = tmp_path / "witness.json"
    kept.write_text(json.dumps({"length": length, "head": head}))
    key, seen = workspace.signing_key().public_key(), witness_in(kept)
    sound = checked(workspace.audit, key, seen).faults

    lines = workspace.audit.read_bytes().splitlines(keepends=True)
    workspace.audit.write_bytes(b"".join(lines[:-1]))

    assert sound == ()
    assert checked(workspace.audit, key).faults == ()
    assert "the end was cut off" in checked(workspace.audit, key, seen).faults[0]


def test_a_release_is_a_witness_too(workspace: Workspace, tmp_path: Path) -> None:
    fetch(workspace, finished(workspace), tmp_path)

    length, head = workspace.chain().head()
    assert witness_in(tmp_path / "release.json") == {length: head}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "3", f'{{"length": 0, "head": "{HASH}"}}', '{"length": 3, "head": "x"}',
     f'{{"length": true, "head": "{HASH}"}}', '{"release": 3}', '{"server_head": null}'],
)  # fmt: skip
def test_a_file_without_a_head_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "witness.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match="holds no head"):
        witness_in(path)


def test_what_each_site_last_said_of_its_log_is_a_witness_for_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    for site, length in (("south", 4), ("north", 3), ("north", 5)):
        workspace.chain().append("site head", site=site, length=length, head=HASH)

    north, south = heads_told(workspace.audit)

    assert south.startswith("south  {")
    path = tmp_path / "witness.json"
    path.write_text(north.removeprefix("north  "))
    assert witness_in(path) == {5: HASH}
