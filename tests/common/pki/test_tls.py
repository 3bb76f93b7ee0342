"""The mutually authenticated connection, over real sockets.

``tls.server_context``: "Guarantee: without a certificate that chains to a root in *root_pem* there
is no connection." ``tls.client_context``: "Guarantee: the machine's own trust store counts for
nothing, and the host's name is checked."
"""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from loopback import Refused, handshake

from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import peer_of, pem_of, request_for
from confrere_common.pki.keys import new_key, private_pem
from confrere_common.pki.tls import client_context, server_context
from confrere_server.membership.authority import (
    issue_invitation,
    issue_server,
    issue_site,
    make_issuing,
    make_root,
)

NOW = datetime.now(UTC)
KEY = new_key()


class Study:
    """Two authorities, and certificates of theirs as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.root_issuer = make_root("eyes", NOW)
        self.issuing = make_issuing(self.root_issuer, "eyes", NOW)
        self.root = self.file("root", pem_of(self.root_issuer.certificate))
        self.key = self.file("key", private_pem(KEY))

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def chain(self, leaf: x509.Certificate, *others: x509.Certificate) -> Path:
        signers = others or (self.issuing.certificate,)
        return self.file(f"{leaf.serial_number}", pem_of(leaf, *signers))

    def site(self, now: datetime = NOW) -> x509.Certificate:
        return issue_site(self.issuing, request_for("north", KEY), "north", now)

    def served(self, host: str = "fl.example.org") -> x509.Certificate:
        return issue_server(self.issuing, KEY.public_key(), host, NOW)

    def server(self, root: Path | None = None) -> ssl.SSLContext:
        return server_context(self.chain(self.served()), self.key, root or self.root)

    def client(self, root: Path | None = None) -> ssl.SSLContext:
        return client_context(self.chain(self.site()), self.key, root or self.root)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("tls") / "foreign")


@pytest.mark.parametrize("host", ["fl.example.org", "localhost", "127.0.0.1"])
def test_a_site_and_the_server_meet_over_tls_1_3(study: Study, host: str) -> None:
    version, certificate = handshake(study.server(), study.client(), host)

    assert version == "TLSv1.3"
    assert peer_of(certificate).name == "north"


def test_a_client_without_a_certificate_is_refused(study: Study) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(study.root)

    refused = handshake(study.server(), bare)

    assert isinstance(refused, Refused)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in refused.why.upper().replace(" ", "_")


def test_a_client_of_a_foreign_authority_is_refused(study: Study, foreign: Study) -> None:
    refused = handshake(study.server(), foreign.client(root=study.root))

    assert isinstance(refused, Refused)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.why


def test_a_server_of_a_foreign_authority_is_refused(study: Study, foreign: Study) -> None:
    refused = handshake(foreign.server(root=study.root), study.client())

    assert isinstance(refused, Refused)
    assert "CERTIFICATE_VERIFY_FAILED" in refused.why


def test_tls_1_2_is_refused_by_both(study: Study) -> None:
    old_client, old_server = study.client(), study.server()
    for old in (old_client, old_server):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2

    assert isinstance(handshake(study.server(), old_client), Refused)
    assert isinstance(handshake(old_server, study.client()), Refused)


def test_a_server_under_another_name_is_refused(study: Study) -> None:
    refused = handshake(study.server(), study.client(), "other.example.org")

    assert isinstance(refused, Refused)
    assert "mismatch" in refused.why


def test_a_site_cannot_pose_as_the_server(study: Study) -> None:
    posing = server_context(study.chain(study.site()), study.key, study.root)

    refused = handshake(posing, study.client())

    assert isinstance(refused, Refused)
    assert "unsuitable certificate purpose" in refused.why


def test_the_server_s_certificate_is_none_of_a_site(study: Study) -> None:
    posing = client_context(study.chain(study.served()), study.key, study.root)

    refused = handshake(study.server(), posing)

    assert isinstance(refused, Refused)
    assert "unsuitable certificate purpose" in refused.why


def test_an_expired_certificate_is_refused(study: Study) -> None:
    # Its authority began two days ago, so this is one whose end is moved, not its beginning.
    until = NOW - timedelta(seconds=1)
    expired = issue_invitation(study.issuing, KEY.public_key(), "north", NOW, until)

    refused = handshake(study.server(), client_context(study.chain(expired), study.key, study.root))

    assert isinstance(refused, Refused)
    assert "expired" in refused.why


def test_the_issuing_authority_can_make_no_authority(study: Study) -> None:
    below = make_issuing(study.issuing, "below", NOW)
    leaf = issue_site(below, request_for("north", KEY), "north", NOW)
    chain = study.chain(leaf, below.certificate, study.issuing.certificate)

    refused = handshake(study.server(), client_context(chain, study.key, study.root))

    assert isinstance(refused, Refused)
    assert "path length" in refused.why


def test_no_session_is_resumed_past_the_check_of_the_certificate(study: Study) -> None:
    assert study.server().num_tickets == 0


@pytest.mark.parametrize("issued_by", ["old", "new"])
def test_who_trusts_both_roots_accepts_servers_under_either(
    study: Study, foreign: Study, issued_by: str
) -> None:
    old, new = study, foreign
    both = old.file("both", old.root.read_bytes() + new.root.read_bytes())
    server = {"old": old, "new": new}[issued_by].server(root=both)

    version, certificate = handshake(server, old.client(root=both))

    assert version == "TLSv1.3"
    assert peer_of(certificate).name == "north"


@pytest.mark.parametrize("make", [server_context, client_context])
def test_files_that_hold_no_certificate_are_named(
    study: Study, make: Callable[[Path, Path, Path], ssl.SSLContext]
) -> None:
    chain = study.chain(study.site())
    noise = study.file("noise", b"noise")

    for files in ((noise, study.key, study.root), (chain, study.key, noise)):
        with pytest.raises(ConfigError, match="noise"):
            make(*files)
    with pytest.raises(ConfigError, match="none"):
        make(chain, study.folder / "none", study.root)
