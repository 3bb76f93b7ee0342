"""A coordinator's workspace.

``workspace.init``: "Guarantee: nothing is overwritten; ConfigError names what is there already."
"""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from confrere_common.address import Address
from confrere_common.chain import verify
from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import certificates_in, needs_renewal
from confrere_common.pki.tls import server_context
from confrere_server.membership.workspace import (
    ServerConfig,
    Workspace,
    init,
    open_workspace,
    renew_server,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init(tmp_path / "study", "augen-2026", "fl.example.org:8443", now=NOW)


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_new_workspace_holds_all_that_a_server_needs(workspace: Workspace) -> None:
    assert files_in(workspace.folder).keys() == {
        *("server.yaml", "roster.json", "audit.jsonl"),
        *("ca/root.crt", "ca/root.key", "ca/issuing.crt", "ca/issuing.key"),
        *("keys/server.crt", "keys/server.key", "keys/signing.key", "keys/signing.pub"),
    }
    assert open_workspace(workspace.folder) == workspace
    server_context(workspace.server_chain, workspace.server_key, workspace.root)


def test_every_private_key_is_for_its_owner_alone(workspace: Workspace) -> None:
    keys = list(workspace.folder.rglob("*.key"))

    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_nothing_is_overwritten(workspace: Workspace) -> None:
    before = files_in(workspace.folder)

    with pytest.raises(ConfigError) as caught:
        init(workspace.folder, "other", "other:1")

    assert files_in(workspace.folder) == before
    for name in ("server.yaml", "roster.json", "audit.jsonl", "ca", "keys"):
        assert f"{name} exists already" in str(caught.value)


@pytest.mark.parametrize("left", ["roster.json", "ca/root.key", "keys/signing.key", "audit.jsonl"])
def test_what_is_left_of_another_workspace_is_not_overwritten(tmp_path: Path, left: str) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_bytes(b"dear")

    with pytest.raises(ConfigError, match=left.split("/")[0]):
        init(tmp_path, "eyes", "h:1")

    assert files_in(tmp_path) == {left: b"dear"}


@pytest.mark.parametrize(
    ("study", "address"), [("", "h:1"), ("x" * 65, "h:1"), ("a\nb", "h:1"), ("a", "h")]
)
def test_a_workspace_that_could_not_work_is_not_made(
    tmp_path: Path, study: str, address: str
) -> None:
    with pytest.raises(ConfigError):
        init(tmp_path, study, address)

    assert not list(tmp_path.iterdir())


def test_its_making_is_the_first_row_of_the_audit_log(workspace: Workspace) -> None:
    checked = verify(workspace.audit, workspace.signing_key().public_key())

    assert (checked.length, checked.faults) == (1, ())


def test_server_yaml_explains_itself_and_tells_all_faults_at_once(workspace: Workspace) -> None:
    settings = workspace.folder / "server.yaml"
    text = settings.read_text()
    slow = text.replace("requests_per_s: 100", "requests_per_s: 0")
    settings.write_text(f"{slow}body_limit: 3\n")

    with pytest.raises(ConfigError) as caught:
        open_workspace(workspace.folder)

    assert "# HOST:PORT under which the hospitals reach this server" in text
    assert "did you mean 'body_limit_mb'?" in str(caught.value)
    assert "requests_per_s is 0" in str(caught.value)


def test_an_address_that_stands_twice_does_not_silently_win(workspace: Workspace) -> None:
    settings = workspace.folder / "server.yaml"
    settings.write_text(settings.read_text() + "address: elsewhere.example.org:1\n")

    with pytest.raises(ConfigError, match="the key 'address' stands twice"):
        open_workspace(workspace.folder)


def test_the_public_port_is_the_address_s_unless_said_otherwise(workspace: Workspace) -> None:
    other = ServerConfig(study="a", address="h:443", listen="[::1]:9443")

    assert workspace.listen == Address("0.0.0.0", 8443)  # noqa: S104
    assert Workspace(folder=Path(), config=other).listen == Address("::1", 9443)


def test_a_folder_without_a_workspace_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="confrere server init"):
        open_workspace(tmp_path)


def test_what_is_missing_is_told_at_once(workspace: Workspace) -> None:
    workspace.roster.unlink()
    workspace.audit.unlink()

    with pytest.raises(ConfigError, match=r"(?s)roster\.json is missing.*audit\.jsonl is missing"):
        open_workspace(workspace.folder)


def test_the_server_s_certificate_is_renewed_when_it_is_due(workspace: Workspace) -> None:
    first = workspace.server_chain.read_bytes()
    due = NOW + timedelta(days=61)

    assert not renew_server(workspace, now=NOW + timedelta(days=50))
    assert workspace.server_chain.read_bytes() == first
    assert renew_server(workspace, now=due)
    assert not renew_server(workspace, now=due)

    renewed = certificates_in(workspace.server_chain.read_bytes())
    assert not needs_renewal(renewed[0], due)
    assert renewed[0].public_key() == certificates_in(first)[0].public_key()
    server_context(workspace.server_chain, workspace.server_key, workspace.root)


def test_the_server_s_certificate_follows_a_new_address(workspace: Workspace) -> None:
    settings = workspace.folder / "server.yaml"
    plain = yaml.safe_load(settings.read_text())
    settings.write_text(yaml.safe_dump({**plain, "address": "10.0.0.3:8443"}))
    moved = open_workspace(workspace.folder)

    assert renew_server(moved, now=NOW)
    assert not renew_server(moved, now=NOW)
