"""The study's certificate authority: an offline root, an issuing one, and what the latter issues.

All certificates begin two days before they are issued, since a hospital's clock may be a day off.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from confrere_common.address import is_ip
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.pki.certificate import (
    Kind,
    certificates_in,
    uri_of,
    urn,
)
from confrere_common.pki.keys import CURVE, TlsKey, new_key, read_tls_key

EARLIER = timedelta(days=2)
"""How long before its issue a certificate begins."""

ROOT_LIFE = timedelta(days=3652)
LIFE = timedelta(days=90)
"""Of a server's or a site's certificate."""

Extensions: TypeAlias = Sequence[tuple[x509.ExtensionType, bool]]
"""What a certificate may be used for, each with whether a reader must understand it."""


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: TlsKey


def read_issuer(certificate: Path, key: Path) -> Issuer:
    """Return the authority in two files; ConfigError says which cannot be read."""
    try:
        found = certificates_in(certificate.read_bytes())[0]
    except (OSError, ExchangeError):
        raise ConfigError(["holds no readable certificate."], str(certificate)) from None
    issuer = Issuer(certificate=found, key=read_tls_key(key))
    if issuer.key.public_key() != found.public_key():
        fault = f"does not belong to {certificate.name}: a rollover was cut short? Run it again."
        raise ConfigError([fault], str(key))
    return issuer


def make_root(study: str, now: datetime) -> Issuer:
    """Return a new root: its key is needed again only to replace the issuing authority."""
    key = new_key()
    name = _name(study, f"Confrere root {now:%Y-%m-%d}")
    build = _Build(name=name, key=key.public_key(), begin=now - EARLIER, end=now + ROOT_LIFE)
    return Issuer(certificate=_signed(build, _authority(None), name, key), key=key)


def make_issuing(root: Issuer, study: str, now: datetime) -> Issuer:
    """Return a new issuing authority (path length 0: it can make no authority below itself)."""
    key = new_key()
    name = _name(study, f"Confrere issuing {now:%Y-%m-%d}")
    return Issuer(
        certificate=_issued(root, name, key.public_key(), _authority(0), (now, now + ROOT_LIFE)),
        key=key,
    )


def vouch(old: Issuer, new: x509.Certificate, now: datetime) -> x509.Certificate:
    """Return the certificate by which the *old* root says that the *new* one is to be trusted."""
    key = _p384(new.public_key())
    end = new.not_valid_after_utc
    return _issued(old, new.subject, key, _authority(None), (now, end))


def issue_server(
    issuer: Issuer, key: EllipticCurvePublicKey, host: str, now: datetime
) -> x509.Certificate:
    """Return a server's certificate for *host* (a name or an IP address) and the machine itself."""
    hosts = dict.fromkeys([host, "localhost", "127.0.0.1"])
    names = [
        x509.IPAddress(ipaddress.ip_address(one)) if is_ip(one) else x509.DNSName(one)
        for one in hosts
    ]
    extensions = _end_entity(names, ExtendedKeyUsageOID.SERVER_AUTH)
    return _issued(issuer, _common("Confrere server"), key, extensions, (now, now + LIFE))


def issue_site(issuer: Issuer, csr: bytes, site: str, now: datetime) -> x509.Certificate:
    """Return a site's certificate for the key in its signing request.

    ExchangeError if the request is not signed with that key, or names anything but *site*. Of the
    request only the key is taken.
    """
    try:
        request = x509.load_pem_x509_csr(csr)
        proven, named = request.is_signature_valid, uri_of(request)
        key = _p384(request.public_key())
    except ValueError:
        raise ExchangeError("a signing request cannot be read.") from None
    if not proven:
        raise ExchangeError("a signing request is not signed with the key that it names.")
    if named != urn("site", site):
        raise ExchangeError(f"a signing request does not name site '{site}', and only that.")
    return _issued(issuer, _common(site), key, _client("site", site), (now, now + LIFE))


def issue_invitation(
    issuer: Issuer, key: EllipticCurvePublicKey, site: str, now: datetime, until: datetime
) -> x509.Certificate:
    """Return the certificate of an invitation, which is good for enrolling *site* alone."""
    return _issued(issuer, _common(site), key, _client("invite", site), (now, until))


@dataclass(frozen=True, kw_only=True)
class _Build:
    name: x509.Name
    key: EllipticCurvePublicKey
    begin: datetime
    end: datetime


def _issued(
    issuer: Issuer,
    name: x509.Name,
    key: EllipticCurvePublicKey,
    extensions: Extensions,
    life: tuple[datetime, datetime],
) -> x509.Certificate:
    # Nothing outlives its issuer, nor is older: a strict reader refuses the chain otherwise.
    begin = max(life[0] - EARLIER, issuer.certificate.not_valid_before_utc)
    end = min(life[1], issuer.certificate.not_valid_after_utc)
    if end <= begin:
        raise ConfigError(
            [f"ended on {end:%Y-%m-%d}: roll it over before that day."], "the study's authority"
        )
    build = _Build(name=name, key=key, begin=begin, end=end)
    own: x509.SubjectKeyIdentifier = issuer.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    return _signed(build, [*extensions, (by, False)], issuer.certificate.subject, issuer.key)


def _signed(
    build: _Build, extensions: Extensions, issuer: x509.Name, key: TlsKey
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(build.name)
        .issuer_name(issuer)
        .public_key(build.key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(build.begin)
        .not_valid_after(build.end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(build.key), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA384())


def _authority(path_length: int | None) -> Extensions:
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_usage(signs_certificates=True), True),
    ]


def _client(kind: Kind, site: str) -> Extensions:
    name = x509.UniformResourceIdentifier(urn(kind, site))
    return _end_entity([name], ExtendedKeyUsageOID.CLIENT_AUTH)


def _end_entity(names: Sequence[x509.GeneralName], purpose: x509.ObjectIdentifier) -> Extensions:
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        (x509.SubjectAlternativeName(names), False),
    ]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(study: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, study),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _p384(key: object) -> EllipticCurvePublicKey:
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise ExchangeError("a certificate was asked for a key that is not P-384.")
    return key
