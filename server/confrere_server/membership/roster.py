"""The roster: which sites take part, by which certificates and keys, and who may yet enrol.

It is one sealed file, changed under a lock. The audit log tells of a change before the file has it:
so none goes unrecorded, though a crash in between may leave one recorded that never was.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from confrere_common.chain import Fact
from confrere_common.enrolment import (
    Grant,
    Invitation,
    Renewal,
    Request,
    decode,
    encode,
    token_of,
)
from confrere_common.errors import CheckpointError, ConfigError, ExchangeError, unknown
from confrere_common.pki.certificate import (
    Kind,
    Peer,
    certificates_in,
    fingerprint_of,
    is_site_name,
    pem_of,
    serial_of,
)
from confrere_common.pki.keys import (
    new_key,
    private_pem,
    public_pem,
    signing_public,
    tls_public,
)
from confrere_common.storage import atomic_write
from confrere_server.membership.authority import Issuer, issue_invitation, issue_site
from confrere_server.membership.seal import hash_of, seal, unseal
from confrere_server.membership.workspace import Workspace

State: TypeAlias = Literal["invited", "active", "revoked"]

OVERLAP = timedelta(hours=24)
"""How long a renewed certificate's predecessor still counts, unless the new one is seen before."""

RENEW_AGAIN = timedelta(hours=1)
"""Pause before a site is given another certificate by the same authority and with the same roots:
one whose answer was lost, or one that somebody at the site asks for before its time."""

HOURS_AT_MOST = 24 * 90
"""How long an invitation may stay open."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One site as the roster has it; times are UTC in ISO 8601."""

    state: State
    since: str
    serials: Mapping[str, str | None] = field(default_factory=dict)
    """Certificates that count: serial -> until when, None for the newest."""

    invited: Mapping[str, str] = field(default_factory=dict)
    """The open invitation, if there is one: serial -> until when."""

    node_pem: str = ""
    audit_pem: str = ""
    roots: str = ""
    """Hash of the trust bundle that it was given with its newest certificate."""

    issuer: str = ""
    """Fingerprint of the authority that issued that certificate."""

    renewed: str = ""
    """When it was last given a certificate in place of another."""

    why: str = ""
    """What was said when it was revoked."""

    @property
    def node_key(self) -> bytes:
        """The public key by which Flower knows the site's node, in Flower's form."""
        return self.node_pem.encode()

    @property
    def audit_key(self) -> bytes:
        """The public key (PEM) that signs the site's audit log."""
        return self.audit_pem.encode()

    def counts(self, peer: Peer, now: datetime) -> bool:
        """Say whether *peer*'s certificate counts at this moment, as a site's or an invitation."""
        if peer.kind == "invite":
            held: Mapping[str, str | None] = self.invited
        else:
            held = self.serials if self.state == "active" else {}
        if peer.serial not in held:
            return False
        until = held[peer.serial]
        return until is None or now < datetime.fromisoformat(until)


@dataclass(frozen=True, kw_only=True)
class Roster:
    """All sites of a study, at one moment."""

    study: str
    sites: Mapping[str, Site]
    hash: str

    def admits(self, peer: Peer, now: datetime | None = None) -> bool:
        """Say whether *peer* is an active site by a certificate that counts, or may yet enrol.

        Guarantee: nobody who was revoked, replaced or has used an invitation is admitted.
        """
        site = self.sites.get(peer.name)
        return site is not None and site.counts(peer, now or datetime.now(UTC))

    def replaced_by(self, peer: Peer) -> bool:
        """Say whether *peer* shows the newest certificate of its site while an older one counts."""
        serials = self.sites[peer.name].serials if peer.name in self.sites else {}
        return peer.kind == "site" and len(serials) > 1 and serials.get(peer.serial, "") is None


ROSTER = TypeAdapter(dict[str, Site])


def read_roster(workspace: Workspace) -> Roster:
    """Return the roster; CheckpointError if it is missing or was changed by other hands."""
    try:
        content = workspace.roster.read_bytes()
    except OSError as fault:
        raise CheckpointError(f"{workspace.roster} cannot be read: {fault.strerror}.") from None
    plain = unseal("roster", content, workspace.signing_key().public_key())
    try:
        sites = ROSTER.validate_python(plain["sites"])
    except (KeyError, ValidationError):
        raise CheckpointError(f"{workspace.roster} was written by another version.") from None
    return Roster(study=plain["study"], sites=sites, hash=hash_of(plain))


def invite(
    workspace: Workspace,
    site: str,
    hours: float = 72,
    *,
    again: bool = False,
    now: datetime | None = None,
) -> str:
    """Return a token by which *site* may enrol once; a token that it had before is void.

    A site that enrolled before is refused unless *again*: it then stays as it is until the token
    is used, which replaces its certificate and keys.
    """
    moment = now or datetime.now(UTC)
    _check_invitation(site, hours)
    key, issuer = new_key(), workspace.issuer()
    until = moment + timedelta(hours=hours)
    issued = issue_invitation(issuer, key.public_key(), site, moment, until)
    with _locked(workspace):
        roster = read_roster(workspace)
        known = roster.sites.get(site, Site(state="invited", since=moment.isoformat()))
        if known.state != "invited" and not again:
            fault = f"is {known.state} since {known.since}: say --again to replace what it holds."
            raise ConfigError([fault], f"site '{site}'")
        changed = replace(known, invited={serial_of(issued): until.isoformat()})
        _write(workspace, roster, "site invited", {site: changed}, serial=serial_of(issued))
    invitation = Invitation(
        study=workspace.config.study,
        site=site,
        address=workspace.config.address,
        root=_roots(workspace),
        chain=pem_of(issued, issuer.certificate).decode(),
        key=private_pem(key).decode(),
    )
    return token_of(invitation)


def enrol(workspace: Workspace, peer: Peer, body: bytes, *, now: datetime | None = None) -> bytes:
    """Make active the site that *peer*'s invitation names, and answer with its certificate.

    Guarantee: an invitation enrols the one site that it names, once; a second use, even at the same
    moment, gets ExchangeError, and so does one that expired, was replaced or revoked. A refusal is
    audited; a request with a fault leaves the invitation open.
    """
    with _audited(workspace, peer, "enrolment refused"):
        asked = decode(Request, body)
        node = public_pem(tls_public(asked.node_key.encode())).decode()
        audit = public_pem(signing_public(asked.audit_key.encode())).decode()
        return _enrol(workspace, peer, asked.csr, (node, audit), now or datetime.now(UTC))


def renew(workspace: Workspace, peer: Peer, body: bytes, *, now: datetime | None = None) -> bytes:
    """Answer an active site with its next certificate.

    The old one counts until the new one is seen (``saw``), at most 24 hours: an answer that is lost
    on the way can so be asked for again, an hour later. Sooner gives ExchangeError, and nothing is
    written: else one site could fill the disk.
    """
    moment = now or datetime.now(UTC)
    _check_pace(workspace, peer, moment)
    with _audited(workspace, peer, "renewal refused"):
        csr = decode(Renewal, body).csr.encode()
        with _locked(workspace):
            roster = read_roster(workspace)
            _check_admitted(roster, peer, "site", moment)
            issuer = workspace.issuer()
            issued = issue_site(issuer, csr, peer.name, moment)
            until = (moment + OVERLAP).isoformat()
            serials = {peer.serial: until, serial_of(issued): None}
            given = _given(workspace, issuer, roster.sites[peer.name], serials)
            site = {peer.name: replace(given, renewed=moment.isoformat())}
            serial = serial_of(issued)
            _write(workspace, roster, "site renewed", site, serial=serial, before=peer.serial)
        return _grant(workspace, pem_of(issued, issuer.certificate))


def saw(workspace: Workspace, peer: Peer) -> None:
    """Take note that *peer* was there: a certificate that its own replaced counts no more."""
    if not read_roster(workspace).replaced_by(peer):
        return
    with _locked(workspace):
        roster = read_roster(workspace)
        if roster.replaced_by(peer):
            site = {peer.name: replace(roster.sites[peer.name], serials={peer.serial: None})}
            _write(workspace, roster, "renewed certificate seen", site, serial=peer.serial)


def revoke(workspace: Workspace, site: str, why: str, *, now: datetime | None = None) -> None:
    """Admit *site* no more, by certificate or by invitation; no other site is touched."""
    moment = (now or datetime.now(UTC)).isoformat()
    with _locked(workspace):
        roster = read_roster(workspace)
        if site not in roster.sites:
            raise ConfigError([unknown("site", site, roster.sites)], "the roster")
        gone = replace(
            roster.sites[site], state="revoked", since=moment, serials={}, invited={}, why=why
        )
        _write(workspace, roster, "site revoked", {site: gone}, why=why)


def _roots(workspace: Workspace) -> str:
    content = workspace.root.read_bytes()
    certificates_in(content)  # ExchangeError for a damaged file, before a site is given it
    return content.decode()


def roots_hash(workspace: Workspace) -> str:
    """Return the SHA-256 of the trust bundle that sites are given now."""
    return hashlib.sha256(workspace.root.read_bytes()).hexdigest()


def _check_invitation(site: str, hours: float) -> None:
    if not is_site_name(site):
        fault = "is no name for a site: use a-z, 0-9 and hyphens, at most 63, none at the start."
        raise ConfigError([fault], repr(site))
    if not 0 < hours <= HOURS_AT_MOST:
        raise ConfigError([f"lasts {hours} hours: above 0, at most {HOURS_AT_MOST}."], "the token")


def _enrol(
    workspace: Workspace, peer: Peer, csr: str, keys: tuple[str, str], now: datetime
) -> bytes:
    with _locked(workspace):
        roster = read_roster(workspace)
        _check_admitted(roster, peer, "invite", now)
        others = [site for name, site in roster.sites.items() if name != peer.name]
        if any({other.node_pem, other.audit_pem} & set(keys) for other in others):
            raise ExchangeError("these keys are another site's: make new ones in a new folder.")
        issuer = workspace.issuer()
        issued = issue_site(issuer, csr.encode(), peer.name, now)
        site = Site(
            state="active",
            since=now.isoformat(),
            node_pem=keys[0],
            audit_pem=keys[1],
        )
        site = _given(workspace, issuer, site, {serial_of(issued): None})
        facts = {"serial": serial_of(issued), "invitation": peer.serial}
        _write(workspace, roster, "site enrolled", {peer.name: site}, **facts)
    return _grant(workspace, pem_of(issued, issuer.certificate))


def _given(
    workspace: Workspace, issuer: Issuer, site: Site, serials: Mapping[str, str | None]
) -> Site:
    by = fingerprint_of(issuer.certificate)
    return replace(site, serials=serials, roots=roots_hash(workspace), issuer=by)


def _check_pace(workspace: Workspace, peer: Peer, now: datetime) -> None:
    site = read_roster(workspace).sites.get(peer.name)
    if site is None or not site.renewed:
        return
    by = fingerprint_of(workspace.issuer().certificate)
    if (site.roots, site.issuer) != (roots_hash(workspace), by):
        return  # a rollover goes on: it waits for every site
    again = datetime.fromisoformat(site.renewed) + RENEW_AGAIN
    if now < again:
        raise ExchangeError(
            f"site '{peer.name}' was given a certificate at {site.renewed[:16]} UTC: the next is "
            f"issued from {again:%H:%M} UTC on."
        )


def _check_admitted(roster: Roster, peer: Peer, kind: Kind, now: datetime) -> None:
    if peer.kind == kind and roster.admits(peer, now):
        return
    if kind == "site":
        raise ExchangeError(f"site '{peer.name}' is not admitted with this certificate.")
    raise ExchangeError(
        f"the invitation of site '{peer.name}' was used, replaced or revoked, or has expired: ask "
        f"the coordinator for a new one (confrere server invite {peer.name} --again)."
    )


def _grant(workspace: Workspace, chain: bytes) -> bytes:
    grant = Grant(
        study=workspace.config.study,
        chain=chain.decode(),
        root=_roots(workspace),
        roster=read_roster(workspace).hash,
        server_key=public_pem(workspace.signing_key().public_key()).decode(),
    )
    return encode(grant)


@contextmanager
def _audited(workspace: Workspace, peer: Peer, refused: str) -> Iterator[None]:
    try:
        yield
    except ExchangeError as fault:
        workspace.chain().append(
            refused, site=peer.name, kind=peer.kind, serial=peer.serial, why=str(fault)[:300]
        )
        raise


@contextmanager
def _locked(workspace: Workspace) -> Iterator[None]:
    # Not the roster itself: that file is replaced at every change, and its lock with it.
    with (workspace.folder / ".roster.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(
    workspace: Workspace, roster: Roster, event: str, changed: Mapping[str, Site], **facts: Fact
) -> None:
    sites = ROSTER.dump_python({**roster.sites, **changed}, mode="json")
    plain = {"study": roster.study, "sites": sites}
    name = next(iter(changed))
    workspace.chain().append(event, site=name, roster=hash_of(plain), **facts)
    atomic_write(workspace.roster, seal("roster", plain, workspace.signing_key()))
