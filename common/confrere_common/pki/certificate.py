"""Certificates: whom one names, when it must be renewed, and which roots a site may come to trust.

A site's certificate names ``urn:confrere:site:NAME``, an invitation's ``urn:confrere:invite:NAME``,
both for clients only, so that neither can pass for a server.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import StringConstraints

from confrere_common.errors import ExchangeError
from confrere_common.pki.keys import TlsKey

Kind: TypeAlias = Literal["site", "invite"]

NAME = "[a-z0-9][a-z0-9-]{0,62}"
SiteName = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
"""A site's name as a section holds it."""

URN = re.compile(f"urn:confrere:(site|invite):({NAME})")


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection."""

    kind: Kind
    name: str
    serial: str
    """Hexadecimal, as the roster keeps it."""

    fingerprint: str
    """SHA-256 of the certificate, hexadecimal."""


def urn(kind: Kind, name: str) -> str:
    """Return the name that a certificate of a site, or of an invitation to it, bears."""
    return f"urn:confrere:{kind}:{name}"


def is_site_name(name: str) -> bool:
    """Say whether a site may be called so: lower case, digits, hyphens, at most 63."""
    return re.fullmatch(NAME, name) is not None


def peer_of(der: bytes) -> Peer:
    """Return whom a client's certificate names; ExchangeError if neither a site nor an invitation.

    It reads the name only: that the certificate is the study's own is for TLS to check, and that
    it still counts for the roster.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        found = uri_of(certificate)
    except (ValueError, x509.ExtensionNotFound) as fault:
        raise ExchangeError(f"a certificate cannot be read: {type(fault).__name__}.") from None
    named = URN.fullmatch(found)
    if not named or list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise ExchangeError("a certificate names neither a site nor an invitation.")
    kind: Kind = "site" if named[1] == "site" else "invite"
    return Peer(kind, named[2], serial_of(certificate), fingerprint_of(certificate))


def uri_of(bearer: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the only name that *bearer* goes by, "" if it has none, or has others too."""
    try:
        names = bearer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 == len(list(names)) else ""


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number as the roster keeps it."""
    return f"{certificate.serial_number:x}"


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def request_for(site: str, key: TlsKey) -> bytes:
    """Return a signing request (PEM): the site's name, and the proof that it holds *key*."""
    named = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(urn("site", site))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.add_extension(named, critical=False).sign(key, hashes.SHA384())
    return request.public_bytes(serialization.Encoding.PEM)


def certificates_in(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a chain or a bundle; ExchangeError if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ExchangeError("what should be certificates in PEM form holds none.") from None


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Return certificates as PEM, in the order given."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def needs_renewal(certificate: x509.Certificate, now: datetime) -> bool:
    """Say whether *certificate* is in the last third of its life, or past it."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= end - (end - begin) / 3


def is_root(certificate: x509.Certificate) -> bool:
    """Say whether a certificate is signed with its own key."""
    return _is_issued(certificate, certificate)


def vouched_roots(offered: bytes, trusted: bytes) -> bytes:
    """Return the bundle *offered* if every root in it is trusted, or vouched for by one that is.

    A root vouches for the next by a certificate of the next one's name and key that it has signed,
    and which stands in the bundle too. So a server, which holds no root's key, can bring its sites
    to trust no root of its own making: ExchangeError.
    """
    known, bundle = certificates_in(trusted), certificates_in(offered)
    roots = [one for one in bundle if is_root(one)]
    if not roots or not all(one in known or _is_vouched(one, bundle, known) for one in roots):
        raise ExchangeError(
            "the server offers a root certificate that none of the trusted ones vouches for; "
            "it was refused. Ask the coordinator by telephone, and join anew if it is right."
        )
    return offered


def _is_vouched(
    root: x509.Certificate, bundle: list[x509.Certificate], known: list[x509.Certificate]
) -> bool:
    key, name = root.public_key(), root.subject
    same = [one for one in bundle if one.public_key() == key and one.subject == name]
    # An issuing authority's certificate is signed by a root as well, but its key is the server's.
    heirs = [one for one in same if _may_be_root(one)]
    return any(_is_issued(one, by) for one in heirs for by in known if is_root(by))


def _may_be_root(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    return found.ca and found.path_length is None


def _is_issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
