"""Whatever a run left, and was fetched where another lay before: it verifies, also once exported.

Runs of every stage are among them, so a file that is sealed and not copied, or left and not taken
away, is found here.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from described import describing_run
from loopback import make_workspace
from published import counts, finished, tuned
from served import federated
from tiny_runs import tiny_run

from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.pki.keys import public_pem
from confrere_deploy.federation.fetching import fetch, verify_release
from confrere_deploy.release.export import Wishes, export
from confrere_deploy.release.verify import verify
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.publish import LEFT
from confrere_server.runs.queue import Folder

SITE: Mapping[str, Any] = {"source": {"name": "site"}, "image_px": 16, "channels": 1, "dims": 2}

LEAVING: Mapping[str, Callable[[], Run]] = {
    "pretrained": federated,
    "pretrained with a decoder": lambda: tiny_run("medsass", data=SITE),
    "tuned, head shared": tuned,
    "tuned, head local": lambda: tuned(head="local"),
    "tuned, not scored": lambda: tuned(head="local", evaluation=None),
    "described": describing_run,
}
"""Kinds of runs -> one of them; each leaves other files than the next."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("again") / "study")


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> Mapping[str, Folder]:
    said = {"north": counts()}
    return {kind: finished(workspace, make(), said) for kind, make in LEAVING.items()}


@pytest.fixture(scope="module")
def brought(
    workspace: Workspace, runs: Mapping[str, Folder], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Return kind -> a folder into which a run of it was fetched, each one its own."""
    home = tmp_path_factory.mktemp("brought")
    for kind, run in runs.items():
        fetch(workspace, run, home / kind)
    return {kind: home / kind for kind in runs}


def sealed(workspace: Workspace, folder: Path) -> set[str]:
    """Return the names under the seal, of a folder that verifies."""
    key = workspace.keys / "signing.pub"
    assert verify(folder, key).startswith("sound: run")
    return set(verify_release(folder, key)["files"])


@pytest.mark.parametrize("kind", LEAVING)
def test_a_run_that_is_fetched_where_others_lay_leaves_nothing_of_theirs(
    workspace: Workspace,
    runs: Mapping[str, Folder],
    brought: Mapping[str, Path],
    kind: str,
    tmp_path: Path,
) -> None:
    for folder in brought.values():
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    fetch(workspace, runs[kind], tmp_path)

    assert sealed(workspace, tmp_path) == sealed(workspace, brought[kind])


def test_the_files_that_may_be_left_are_those_that_runs_leave(
    workspace: Workspace, brought: Mapping[str, Path]
) -> None:
    found = set[str]().union(*(sealed(workspace, folder) for folder in brought.values()))

    assert found == set(LEFT)


@pytest.mark.parametrize("kind", [kind for kind in LEAVING if kind != "described"])
def test_what_is_fetched_and_exported_verifies_with_every_sealed_file(
    workspace: Workspace, brought: Mapping[str, Path], kind: str, tmp_path: Path
) -> None:
    signer = Ed25519PrivateKey.generate()
    key = tmp_path / "exporter.pub"
    key.write_bytes(public_pem(signer.public_key()))

    export(brought[kind], tmp_path / "release", signer, Wishes())

    assert "the coordinator's seal is sound: run" in verify(tmp_path / "release", key)
    for name in sealed(workspace, brought[kind]):
        assert (tmp_path / "release" / name).read_bytes() == (brought[kind] / name).read_bytes()


def test_what_was_not_sealed_is_not_exported_with_it(
    brought: Mapping[str, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(brought["tuned, not scored"], tmp_path / "run")
    (run / "task.safetensors").write_bytes(b"of somebody else")

    export(run, tmp_path / "release", Ed25519PrivateKey.generate(), Wishes())

    assert not (tmp_path / "release/task.safetensors").exists()


def test_a_run_is_not_fetched_into_its_own_folder_where_its_files_would_be_taken_away(
    workspace: Workspace, runs: Mapping[str, Folder]
) -> None:
    run = runs["tuned, head shared"]
    before = (run.path / "task.safetensors").read_bytes()

    with pytest.raises(ConfigError, match="is the run's own folder"):
        fetch(workspace, run, run.path)

    assert (run.path / "task.safetensors").read_bytes() == before
