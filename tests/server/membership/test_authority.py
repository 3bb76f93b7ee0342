from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.pki.certificate import request_for, uri_of
from confrere_common.pki.keys import new_key
from confrere_server.membership.authority import (
    Issuer,
    issue_invitation,
    issue_server,
    issue_site,
    make_issuing,
    make_root,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = new_key()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def root() -> Issuer:
    return make_root("eyes", NOW)


@pytest.fixture(scope="module")
def issuing(root: Issuer) -> Issuer:
    return make_issuing(root, "eyes", NOW)


def constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_the_root_signs_the_issuing_authority_which_signs_no_other(
    root: Issuer, issuing: Issuer
) -> None:
    issuing.certificate.verify_directly_issued_by(root.certificate)

    assert constraints(root.certificate).ca
    assert constraints(issuing.certificate).path_length == 0
    for issuer in (root, issuing):
        assert isinstance(issuer.key.curve, ec.SECP384R1)
        assert issuer.certificate.not_valid_after_utc - NOW == 3652 * DAY


def test_certificates_begin_early_for_clocks_that_are_a_day_off(
    root: Issuer, issuing: Issuer
) -> None:
    site = issue_site(issuing, request_for("north", KEY), "north", NOW + 30 * DAY)

    assert root.certificate.not_valid_before_utc == NOW - 2 * DAY
    assert issuing.certificate.not_valid_before_utc == NOW - 2 * DAY
    assert site.not_valid_before_utc == NOW + 28 * DAY
    assert site.not_valid_after_utc == NOW + 120 * DAY


@pytest.mark.parametrize("host", ["fl.example.org", "10.0.0.3", "2001:db8::1", "localhost"])
def test_a_server_is_named_by_its_host_and_its_own_machine(issuing: Issuer, host: str) -> None:
    issued = issue_server(issuing, KEY.public_key(), host, NOW)

    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = {str(name.value) for name in names}
    assert found == {host, "localhost", "127.0.0.1"}
    assert purposes(issued) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert issued.not_valid_after_utc == NOW + 90 * DAY


def test_a_site_gets_a_certificate_for_clients_only(issuing: Issuer) -> None:
    issued = issue_site(issuing, request_for("north", KEY), "north", NOW)

    assert uri_of(issued) == "urn:confrere:site:north"
    assert purposes(issued) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not constraints(issued).ca
    assert issued.public_key() == KEY.public_key()


def test_an_invitation_ends_with_itself(issuing: Issuer) -> None:
    until = NOW + timedelta(hours=5)

    issued = issue_invitation(issuing, KEY.public_key(), "north", NOW, until)

    assert uri_of(issued) == "urn:confrere:invite:north"
    assert issued.not_valid_after_utc == until


def test_a_request_for_another_site_is_refused(issuing: Issuer) -> None:
    with pytest.raises(ExchangeError, match="does not name site 'north'"):
        issue_site(issuing, request_for("south", KEY), "north", NOW)


def test_a_request_that_is_not_signed_by_its_own_key_is_refused(issuing: Issuer) -> None:
    request = x509.load_pem_x509_csr(request_for("north", KEY)).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(request[:-1] + bytes([request[-1] ^ 1]))

    with pytest.raises(ExchangeError):
        issue_site(issuing, forged.public_bytes(Encoding.PEM), "north", NOW)


def test_a_request_for_a_weaker_key_is_refused(issuing: Issuer) -> None:
    weak = request_for("north", ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(ExchangeError, match="P-384"):
        issue_site(issuing, weak, "north", NOW)


@pytest.mark.parametrize("csr", [b"", b"noise"])
def test_what_is_no_request_is_refused(issuing: Issuer, csr: bytes) -> None:
    with pytest.raises(ExchangeError, match="cannot be read"):
        issue_site(issuing, csr, "north", NOW)


def test_nothing_outlives_its_issuer(issuing: Issuer) -> None:
    end = issuing.certificate.not_valid_after_utc

    late = issue_site(issuing, request_for("north", KEY), "north", end - 5 * DAY)

    assert late.not_valid_after_utc == end
    with pytest.raises(ConfigError, match="roll it over"):
        issue_site(issuing, request_for("north", KEY), "north", end + 5 * DAY)
