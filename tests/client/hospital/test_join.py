"""A site joins, over real TLS on this machine.

``join.join``: "Guarantee: private keys are made here, mode 0600, and never leave; none is
overwritten."
"""

import json
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from loopback import free_port, make_workspace, relaying, serving

from confrere_client.hospital.join import join, renew_if_due
from confrere_client.hospital.site import open_site
from confrere_common.chain import verify
from confrere_common.enrolment import encode, invitation_in, token_of
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.pki.certificate import (
    certificates_in,
    fingerprint_of,
    peer_of,
    pem_of,
    request_for,
)
from confrere_common.pki.keys import new_key, public_pem
from confrere_common.pki.tls import client_context
from confrere_server.membership.authority import issue_site, make_root, read_issuer, vouch
from confrere_server.membership.roster import invite, read_roster, revoke
from confrere_server.membership.workspace import Workspace

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with serving(make_workspace(tmp_path_factory.mktemp("server") / "study")) as served:
        yield served


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_site_joins_with_one_token(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "site"

    agreed = join(invite(workspace, "north"), folder)

    site, roster = open_site(folder), read_roster(workspace)
    peer = peer_of(site.certificate().public_bytes(Encoding.DER))
    root = certificates_in(workspace.root.read_bytes())[0]
    assert (agreed.study, agreed.site, agreed.server) == ("eyes", "north", str(workspace.address))
    assert (agreed.roster, agreed.root) == (roster.hash, fingerprint_of(root))
    assert (agreed.fingerprint, agreed.expires) == (
        peer.fingerprint,
        site.certificate().not_valid_after_utc,
    )
    assert roster.admits(peer)
    assert site.server_signing_key() == workspace.signing_key().public_key()
    assert len(site.outbox_key()) == 32
    checked = verify(site.audit, site.signing_key().public_key())
    assert (checked.length, checked.faults) == (1, ())
    assert json.loads(site.audit.read_text())["facts"]["roster"] == roster.hash


def test_its_keys_are_its_own_and_never_leave(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    join(invite(workspace, "keys"), folder)

    keys = {path.name: path for path in (folder / "keys").glob("*.key")}

    assert keys.keys() == {"site.key", "node.key", "signing.key", "outbox.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.values()} == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    at_the_server = b"".join(files_in(workspace.folder).values())
    for path in keys.values():
        content = path.read_bytes()
        assert content not in at_the_server
        assert b"PRIVATE" not in content or content.splitlines()[1] not in at_the_server


def test_a_token_may_be_a_file(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(invite(workspace, "file") + "\n")

    assert join(str(tmp_path / "token"), tmp_path / "site").site == "file"


def test_a_proxy_is_used_where_one_is_set(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relaying() as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)

        join(invite(workspace, "proxied"), tmp_path)

    assert set(asked) == {str(workspace.address)}


@pytest.mark.parametrize(
    ("key", "said"),
    [("study", "of study 'eyes', not 'hearts'"), ("chain", "another key"), ("root", "vouches")],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(
    tmp_path: Path, key: str, said: str
) -> None:
    workspace, now = make_workspace(tmp_path / "study"), datetime.now(UTC)
    other = issue_site(workspace.issuer(), request_for("north", new_key()), "north", now)
    lies = {
        "study": "hearts",
        "chain": pem_of(other).decode(),
        "root": pem_of(make_root("eyes", now).certificate).decode(),
    }

    def lie(answer: bytes) -> bytes:
        return json.dumps({**json.loads(answer), key: lies[key]}).encode()

    with serving(workspace, lie), pytest.raises(ExchangeError, match=said):
        join(invite(workspace, "north"), tmp_path / "site")

    assert not (tmp_path / "site" / "site.yaml").exists()
    assert not (tmp_path / "site" / "keys" / "site.crt").exists()


def test_a_folder_that_joined_is_left_alone(workspace: Workspace, tmp_path: Path) -> None:
    join(invite(workspace, "twice"), tmp_path)
    before = files_in(tmp_path)

    with pytest.raises(ConfigError, match="joined a study already"):
        join(invite(workspace, "thrice"), tmp_path)

    assert files_in(tmp_path) == before


def test_a_replayed_token_says_what_to_ask_for(workspace: Workspace, tmp_path: Path) -> None:
    token = invite(workspace, "replay")
    join(token, tmp_path / "one")

    with pytest.raises(ExchangeError, match="confrere server invite replay --again"):
        join(token, tmp_path / "two")

    assert not (tmp_path / "two" / "site.yaml").exists()


def test_a_join_cut_short_is_begun_again_with_the_same_keys_and_token(
    workspace: Workspace, tmp_path: Path
) -> None:
    token = invite(workspace, "short")
    nowhere = invitation_in(token)
    plain = json.loads(encode(nowhere)) | {"address": f"127.0.0.1:{free_port()}"}
    with pytest.raises(ExchangeError, match="did not answer"):
        join(token_of(type(nowhere)(**plain)), tmp_path)
    keys = {name: text for name, text in files_in(tmp_path).items() if name.endswith(".key")}

    join(token, tmp_path)

    assert len(keys) == 4
    assert keys.items() <= files_in(tmp_path).items()


@pytest.mark.parametrize("lost", ["site.key", "node.key", "signing.key", "outbox.key"])
def test_a_key_that_was_not_yet_made_is_made_on_the_second_try(
    workspace: Workspace, tmp_path: Path, lost: str
) -> None:
    token = invite(workspace, f"lost-{lost.partition('.')[0]}")
    join(token, tmp_path / "first")
    shutil.copytree(tmp_path / "first" / "keys", tmp_path / "site" / "keys")
    (tmp_path / "site" / "keys" / lost).unlink()

    with pytest.raises(ExchangeError, match="--again"):
        join(token, tmp_path / "site")

    assert (tmp_path / "site" / "keys" / lost).is_file()


def test_an_expired_token_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(hours=24)
    token = invite(workspace, "late", hours=1, now=yesterday)

    with pytest.raises(ExchangeError):
        join(token, tmp_path)


def test_a_server_that_the_token_does_not_know_is_not_told_anything(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = make_workspace(tmp_path / "other", study="hearts")
    foreign = json.loads(encode(invitation_in(invite(other, "north"))))
    foreign["address"] = str(workspace.address)

    with pytest.raises(ExchangeError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        join(token_of(type(invitation_in(invite(other, "n")))(**foreign)), tmp_path / "site")


@pytest.mark.parametrize("token", ["", "no token", "/no/such/file", "x" * 5000])
def test_what_is_no_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ExchangeError, match=r"token|invitation"):
        join(token, tmp_path / "site")

    assert not (tmp_path / "site").exists()


def test_a_certificate_is_renewed_when_it_is_due(workspace: Workspace, tmp_path: Path) -> None:
    join(invite(workspace, "renewal"), tmp_path)
    before = open_site(tmp_path)
    old, key = before.certificate(), before.site_key.read_bytes()
    due = datetime.now(UTC) + timedelta(days=70)

    assert not renew_if_due(tmp_path)
    assert renew_if_due(tmp_path, now=due)

    after = open_site(tmp_path)
    assert after.certificate().serial_number != old.serial_number
    assert after.site_key.read_bytes() == key
    assert read_roster(workspace).admits(peer_of(after.certificate().public_bytes(Encoding.DER)))
    client_context(after.site_chain, after.site_key, after.root)


def test_a_revoked_site_gets_no_certificate(workspace: Workspace, tmp_path: Path) -> None:
    join(invite(workspace, "gone"), tmp_path)
    before = files_in(tmp_path)
    revoke(workspace, "gone", "left the study")

    with pytest.raises(ExchangeError, match="not admitted"):
        renew_if_due(tmp_path, early=True)

    assert files_in(tmp_path) == before


def test_a_server_that_signs_with_another_key_is_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    other = public_pem(Ed25519PrivateKey.generate().public_key()).decode()
    grants: list[bytes] = []

    def change(answer: bytes) -> bytes:
        grants.append(answer)
        plain = json.loads(answer)
        return answer if len(grants) == 1 else json.dumps(plain | {"server_key": other}).encode()

    with serving(workspace, change):
        join(invite(workspace, "north"), tmp_path / "site")
        before = files_in(tmp_path / "site")

        with pytest.raises(ExchangeError, match="another key"):
            renew_if_due(tmp_path / "site", early=True)

    assert files_in(tmp_path / "site") == before


def test_a_server_that_moved_is_known_by_the_same_certificate(
    workspace: Workspace, tmp_path: Path
) -> None:
    join(invite(workspace, "moved"), tmp_path)
    settings = tmp_path / "site.yaml"
    plain = yaml.safe_load(settings.read_text())
    settings.write_text(yaml.safe_dump({**plain, "address": f"localhost:{workspace.address.port}"}))

    assert renew_if_due(tmp_path, early=True)


def test_a_site_comes_to_trust_the_next_root_with_its_next_certificate(tmp_path: Path) -> None:
    workspace, now = make_workspace(tmp_path / "study"), datetime.now(UTC)
    old = read_issuer(workspace.root, workspace.ca / "root.key")
    new = make_root("eyes", now)
    bundle = pem_of(new.certificate, vouch(old, new.certificate, now), old.certificate)
    with serving(workspace):
        join(invite(workspace, "north"), tmp_path / "site")
        workspace.root.write_bytes(bundle)

        renew_if_due(tmp_path / "site", early=True)

        assert open_site(tmp_path / "site").root.read_bytes() == bundle


def test_a_site_refuses_a_root_of_the_server_s_own_making(tmp_path: Path) -> None:
    workspace, now = make_workspace(tmp_path / "study"), datetime.now(UTC)
    with serving(workspace):
        join(invite(workspace, "north"), tmp_path / "site")
        before = files_in(tmp_path / "site")
        own = make_root("eyes", now).certificate
        workspace.root.write_bytes(pem_of(own) + workspace.root.read_bytes())

        with pytest.raises(ExchangeError, match="vouches"):
            renew_if_due(tmp_path / "site", early=True)

        assert files_in(tmp_path / "site") == before
