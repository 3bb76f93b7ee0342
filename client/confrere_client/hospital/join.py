"""A site joins a study: its keys are made here, and the server signs for them.

Only requests go out, over HTTPS and through HTTPS_PROXY where it is set; the server is known by the
root certificate in the token, and by nothing that the machine trusts otherwise.
"""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from confrere_client.hospital.site import SiteConfig, SiteFolder, open_site
from confrere_common.address import Address
from confrere_common.enrolment import (
    Grant,
    Invitation,
    Renewal,
    Request,
    decode,
    encode,
    invitation_in,
)
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.pki.certificate import (
    certificates_in,
    fingerprint_of,
    needs_renewal,
    peer_of,
    request_for,
    serial_of,
    vouched_roots,
)
from confrere_common.pki.keys import (
    new_key,
    public_pem,
    read_tls_key,
    signing_public,
    write_key,
    write_secret,
)
from confrere_common.pki.tls import client_context
from confrere_common.settings import written
from confrere_common.storage import atomic_write

TIMEOUT_S = 30.0
ANSWER_AT_MOST = 1 << 20
"""Bytes of an answer that are read."""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What a site and a study agreed on."""

    study: str
    site: str
    server: str
    """HOST:PORT."""

    root: str
    """Fingerprint (SHA-256) of the root by which the server is known."""

    fingerprint: str
    """Of the site's own certificate."""

    expires: datetime
    """When that certificate ends; the daemon renews it before."""

    roster: str
    """Hash of the roster in which the site now stands."""


def join(token: str, folder: Path) -> Agreed:
    """Join the study that invited, and try the connection; *token* may be a file that holds it.

    Guarantee: private keys are made here, mode 0600, and never leave; none is overwritten. A join
    that was cut short is begun again with the same token, and says so if the server had used it up.
    """
    invitation = _read_token(token)
    config = SiteConfig(study=invitation.study, site=invitation.site, address=invitation.address)
    site = SiteFolder(folder=folder, config=config)
    if site.settings.exists():
        fault = "has joined a study already: choose another folder, or move this one away."
        raise ConfigError([fault], str(folder))
    _make_keys(site)
    with _invited(invitation) as context:
        grant = decode(Grant, _ask(context, site.address, "/v1/enrol", _request(site)))
    if grant.study != invitation.study:
        raise ExchangeError(f"the token is of study '{invitation.study}', not '{grant.study}'.")
    _keep(site, grant, trusted=invitation.root.encode())
    atomic_write(site.settings, written(config).encode())
    _witness(site, "joined", grant)
    _shake_hands(site)
    certificate = site.certificate()
    return Agreed(
        study=config.study,
        site=config.site,
        server=config.address,
        root=fingerprint_of(certificates_in(site.root.read_bytes())[0]),
        fingerprint=fingerprint_of(certificate),
        expires=certificate.not_valid_after_utc,
        roster=grant.roster,
    )


def renew_if_due(folder: Path, *, now: datetime | None = None, early: bool = False) -> bool:
    """Fetch the next certificate when the present one is in the last third of its life, or *early*.

    Say whether it was fetched; the key stays. The server counts the new one from its first use,
    so whoever holds a connection open should load the chain again at once.
    """
    site = open_site(folder)
    if not early and not needs_renewal(site.certificate(), now or datetime.now(UTC)):
        return False
    csr = request_for(site.config.site, read_tls_key(site.site_key)).decode()
    answer = _ask(_known(site), site.address, "/v1/renew", encode(Renewal(csr=csr)))
    grant = decode(Grant, answer)
    if signing_public(grant.server_key.encode()) != site.server_signing_key():
        raise ExchangeError(
            "the server signs with another key than when this site joined; nothing was taken from "
            "it. Ask the coordinator by telephone, and join anew if it is right."
        )
    _keep(site, grant, trusted=site.root.read_bytes())
    _witness(site, "certificate renewed", grant)
    return True


def _read_token(token: str) -> Invitation:
    try:
        return invitation_in(token)
    except ExchangeError as fault:
        try:
            text = Path(token).read_text(encoding="ascii")
        except (OSError, ValueError):
            raise fault from None
        return invitation_in(text)


def _make_keys(site: SiteFolder) -> None:
    # Keys of a join that was cut short are taken up again: they have not left this folder.
    site.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("site.key", "node.key"):
        _make(site.keys / name, lambda path: write_key(path, new_key()))
    _make(site.keys / "signing.key", lambda path: write_key(path, Ed25519PrivateKey.generate()))
    _make(site.keys / "outbox.key", lambda path: write_secret(path, secrets.token_bytes(32)))


def _make(path: Path, write: Callable[[Path], None]) -> None:
    if not path.exists():
        write(path)


def _request(site: SiteFolder) -> bytes:
    csr = request_for(site.config.site, read_tls_key(site.site_key))
    request = Request(
        csr=csr.decode(),
        node_key=public_pem(site.node_key().public_key()).decode(),
        audit_key=public_pem(site.signing_key().public_key()).decode(),
    )
    return encode(request)


@contextmanager
def _invited(invitation: Invitation) -> Iterator[SSLContext]:
    # Python loads a chain and its key from files only; this folder is mode 0700.
    with tempfile.TemporaryDirectory(prefix="confrere-join-") as name:
        folder = Path(name)
        parts = {"chain": invitation.chain, "key": invitation.key, "root": invitation.root}
        for part, text in parts.items():
            atomic_write(folder / part, text.encode())
        yield client_context(folder / "chain", folder / "key", folder / "root")


def _known(site: SiteFolder) -> SSLContext:
    return client_context(site.site_chain, site.site_key, site.root)


def _shake_hands(site: SiteFolder) -> None:
    try:
        _ask(_known(site), site.address, "/health")
    except ExchangeError as fault:
        raise ExchangeError(
            f"joined, but the new certificate was not taken at once: {fault} See 'confrere doctor'."
        ) from None


def _ask(context: SSLContext, address: Address, path: str, body: bytes | None = None) -> bytes:
    """POST *body*, or GET without one; ExchangeError says what the server, or the way, refused."""
    verb = "GET" if body is None else "POST"
    try:
        with (
            httpx.Client(verify=context, timeout=TIMEOUT_S) as client,
            client.stream(verb, f"https://{address}{path}", content=body) as answer,
        ):
            content = _content(answer)
    except (httpx.HTTPError, OSError) as fault:
        raise ExchangeError(
            f"{address} did not answer: {fault or type(fault).__name__}. Is the address right, the "
            "port open for outgoing connections, HTTPS_PROXY set where one is needed?"
        ) from None
    if answer.status_code != httpx.codes.OK:
        said = content[:300].decode("utf-8", "replace")
        raise ExchangeError(f"the server refused ({answer.status_code}): {said}")
    return content


def _content(answer: httpx.Response) -> bytes:
    content = b""
    for part in answer.iter_bytes():
        content += part
        if len(content) > ANSWER_AT_MOST:
            raise ExchangeError(f"the server's answer is longer than {ANSWER_AT_MOST} bytes.")
    return content


def _keep(site: SiteFolder, grant: Grant, *, trusted: bytes) -> None:
    """Put what the server granted into the folder, once it is what was asked for."""
    chain = grant.chain.encode()
    certificate = certificates_in(chain)[0]
    peer = peer_of(certificate.public_bytes(Encoding.DER))
    if (peer.kind, peer.name) != ("site", site.config.site):
        raise ExchangeError(f"the server's certificate names {peer.kind} '{peer.name}'.")
    if certificate.public_key() != read_tls_key(site.site_key).public_key():
        raise ExchangeError("the server's certificate is for another key than this site's.")
    signing_public(grant.server_key.encode())
    atomic_write(site.root, vouched_roots(grant.root.encode(), trusted))
    atomic_write(site.keys / "server.pub", grant.server_key.encode())
    atomic_write(site.site_chain, chain)


def _witness(site: SiteFolder, event: str, grant: Grant) -> None:
    serial = serial_of(site.certificate())
    site.chain().append(event, study=grant.study, roster=grant.roster, serial=serial)
