"""The study's root is replaced by the next one, with overlap: for a while both are trusted.

``begin`` (which needs the old root's key, and is the only thing that does) makes the next root, and
trusts both; each site receives both with its next certificate, the next vouched for by the old, and
would refuse it otherwise. ``switch``, once every site has both, issues under the next root.
``finish``, once every site's certificate is of the next root, trusts the old one no more. Sites
renew by themselves within 90 days, so a rollover needs no visit to any. Each step may be repeated
after a crash. A running server takes up ``begin`` and ``switch`` within seconds; the old root it
forgets when it is started again after ``finish``. A token given out before ``begin`` fails after
``switch``: invite again.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import certificates_in, fingerprint_of, is_root, pem_of
from confrere_common.pki.keys import private_pem, write_key
from confrere_common.storage import atomic_folder, atomic_write, remove_folder
from confrere_server.membership.authority import Issuer, make_issuing, make_root, read_issuer, vouch
from confrere_server.membership.roster import Site, read_roster, roots_hash
from confrere_server.membership.workspace import Workspace, renew_server


def begin(workspace: Workspace, *, now: datetime | None = None) -> None:
    """Make the next root and its issuing authority, and trust old and next from here on."""
    moment = now or datetime.now(UTC)
    if len(_roots(workspace)) > 1:
        raise ConfigError(["is under way already: go on with switch."], "the root's rollover")
    old = read_issuer(workspace.root, workspace.ca / "root.key")
    _forget_the_last(workspace)
    if not _next(workspace).is_dir():
        study = workspace.config.study
        root = make_root(study, moment)
        issuing = make_issuing(root, study, moment)
        atomic_folder(_next(workspace), lambda part: _write_pair(part, root, issuing))
    new = _read_next(workspace, "root").certificate
    both = pem_of(new, vouch(old, new, moment), old.certificate)
    workspace.chain().append("root rollover begun", root=fingerprint_of(new))
    atomic_write(workspace.root, both)


def switch(workspace: Workspace, *, now: datetime | None = None) -> None:
    """Issue under the next root; ConfigError names the sites that would not know it yet."""
    _check_under_way(workspace)
    trusted = roots_hash(workspace)
    _check_sites(workspace, lambda site: site.roots == trusted, "both roots")
    issuing = _read_next(workspace, "issuing")
    workspace.chain().append("root rollover switched", issuer=fingerprint_of(issuing.certificate))
    atomic_write(workspace.ca / "issuing.key", private_pem(issuing.key))
    atomic_write(workspace.ca / "issuing.crt", pem_of(issuing.certificate))
    renew_server(workspace, now=now)


def finish(workspace: Workspace) -> None:
    """Trust the old root no more; ConfigError names the sites whose certificate is still of it."""
    _check_under_way(workspace)
    issuer = fingerprint_of(_read_next(workspace, "issuing").certificate)
    _check_sites(workspace, lambda site: site.issuer == issuer, "a certificate of the next root")
    root = _read_next(workspace, "root")
    workspace.chain().append("root rollover finished", root=fingerprint_of(root.certificate))
    atomic_write(workspace.ca / "root.key", private_pem(root.key))
    atomic_write(workspace.root, pem_of(root.certificate))
    remove_folder(_next(workspace))


def _next(workspace: Workspace) -> Path:
    return workspace.ca / "next"


def _forget_the_last(workspace: Workspace) -> None:
    # A crash at the very end of ``finish`` leaves the folder behind; its root is the present one.
    made = _next(workspace) / "root.crt"
    if made.is_file() and made.read_bytes() == workspace.root.read_bytes():
        remove_folder(_next(workspace))


def _read_next(workspace: Workspace, name: str) -> Issuer:
    folder = _next(workspace)
    return read_issuer(folder / f"{name}.crt", folder / f"{name}.key")


def _write_pair(folder: Path, root: Issuer, issuing: Issuer) -> None:
    for name, issuer in (("root", root), ("issuing", issuing)):
        write_key(folder / f"{name}.key", issuer.key)
        atomic_write(folder / f"{name}.crt", pem_of(issuer.certificate))


def _roots(workspace: Workspace) -> list[str]:
    bundle = certificates_in(workspace.root.read_bytes())
    return [fingerprint_of(one) for one in bundle if is_root(one)]


def _check_under_way(workspace: Workspace) -> None:
    if not _next(workspace).is_dir() or len(_roots(workspace)) < 2:
        raise ConfigError(["has not begun: start with begin."], "the root's rollover")


def _check_sites(workspace: Workspace, ready: Callable[[Site], bool], what: str) -> None:
    sites = read_roster(workspace).sites
    late = [name for name, site in sites.items() if site.state == "active" and not ready(site)]
    if late:
        fault = f"waits for {', '.join(late)}: each gets {what} with its next certificate."
        raise ConfigError([fault, "A site that is gone for good can be revoked."], "the rollover")
