"""Whom a certificate names, and which roots a site may come to trust."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from confrere_common.errors import ExchangeError
from confrere_common.pki.certificate import (
    certificates_in,
    fingerprint_of,
    is_site_name,
    needs_renewal,
    peer_of,
    pem_of,
    request_for,
    serial_of,
    vouched_roots,
)
from confrere_common.pki.keys import new_key
from confrere_server.membership.authority import (
    Issuer,
    issue_invitation,
    issue_server,
    issue_site,
    make_issuing,
    make_root,
    vouch,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = new_key()


@pytest.fixture(scope="module")
def root() -> Issuer:
    return make_root("eyes", NOW)


@pytest.fixture(scope="module")
def issuing(root: Issuer) -> Issuer:
    return make_issuing(root, "eyes", NOW)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_a_site_s_certificate_names_the_site(issuing: Issuer) -> None:
    issued = issue_site(issuing, request_for("north", KEY), "north", NOW)

    peer = peer_of(der(issued))

    assert (peer.kind, peer.name) == ("site", "north")
    assert (peer.serial, peer.fingerprint) == (serial_of(issued), fingerprint_of(issued))


def test_an_invitation_s_certificate_names_the_invitation(issuing: Issuer) -> None:
    issued = issue_invitation(issuing, KEY.public_key(), "north", NOW, NOW + timedelta(hours=1))

    assert (peer_of(der(issued)).kind, peer_of(der(issued)).name) == ("invite", "north")


def test_nothing_else_is_a_peer(root: Issuer, issuing: Issuer) -> None:
    server = issue_server(issuing, KEY.public_key(), "fl.example.org", NOW)

    for content in (der(root.certificate), der(issuing.certificate), der(server), b"", b"noise"):
        with pytest.raises(ExchangeError):
            peer_of(content)


def test_a_certificate_that_may_serve_is_no_peer_whatever_it_is_called(issuing: Issuer) -> None:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:confrere:site:north")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuing.certificate.subject)
        .issuer_name(issuing.certificate.subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(name, critical=False)
    )
    both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]

    for usage in (both[1:], both):
        made = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        with pytest.raises(ExchangeError):
            peer_of(der(made.sign(issuing.key, hashes.SHA384())))


@pytest.mark.parametrize(
    ("name", "fits"),
    [("a", True), ("st-anna-2", True), ("9", True), ("a" * 63, True)]
    + [(bad, False) for bad in ("", "-a", "A", "a_b", "a.b", "ä", "a\n", "a" * 64, "a/b", "..")],
)
def test_a_site_is_named_plainly(name: str, fits: bool) -> None:
    assert is_site_name(name) == fits


def test_a_certificate_is_renewed_in_the_last_third_of_its_life(issuing: Issuer) -> None:
    issued = issue_site(issuing, request_for("north", KEY), "north", NOW)
    third = timedelta(days=92) / 3

    assert not needs_renewal(issued, NOW)
    assert not needs_renewal(issued, issued.not_valid_after_utc - third - timedelta(seconds=1))
    assert needs_renewal(issued, issued.not_valid_after_utc - third)
    assert needs_renewal(issued, issued.not_valid_after_utc + third)


def test_a_new_root_that_the_old_one_vouches_for_is_taken(root: Issuer) -> None:
    following = make_root("eyes", NOW)
    bridge = vouch(root, following.certificate, NOW)
    offered = pem_of(following.certificate, bridge, root.certificate)

    assert vouched_roots(offered, pem_of(root.certificate)) == offered


def test_the_old_root_may_be_dropped_by_those_who_trust_both(root: Issuer) -> None:
    following = make_root("eyes", NOW)
    both = pem_of(following.certificate, root.certificate)

    assert vouched_roots(pem_of(following.certificate), both) == pem_of(following.certificate)


def test_a_root_that_none_of_the_trusted_vouches_for_is_refused(root: Issuer) -> None:
    stranger = make_root("eyes", NOW)
    bridge = vouch(stranger, stranger.certificate, NOW)

    for offered in (
        pem_of(stranger.certificate),
        pem_of(stranger.certificate, root.certificate),
        pem_of(stranger.certificate, bridge, root.certificate),
    ):
        with pytest.raises(ExchangeError, match="vouches"):
            vouched_roots(offered, pem_of(root.certificate))


def test_a_server_cannot_make_a_root_of_its_issuing_key(root: Issuer, issuing: Issuer) -> None:
    own = make_root("eyes", NOW)
    forged = (
        x509.CertificateBuilder()
        .subject_name(issuing.certificate.subject)
        .issuer_name(issuing.certificate.subject)
        .public_key(issuing.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(issuing.key, own.certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    )

    with pytest.raises(ExchangeError, match="vouches"):
        vouched_roots(
            pem_of(forged, issuing.certificate, root.certificate), pem_of(root.certificate)
        )


@pytest.mark.parametrize("pem", [b"", b"noise", b"-----BEGIN CERTIFICATE-----\n"])
def test_what_holds_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(ExchangeError):
        certificates_in(pem)


def test_a_bundle_without_a_root_is_refused(root: Issuer, issuing: Issuer) -> None:
    with pytest.raises(ExchangeError):
        vouched_roots(pem_of(issuing.certificate), pem_of(root.certificate))
