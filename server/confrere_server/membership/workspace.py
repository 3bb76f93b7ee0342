"""A coordinator's workspace: the folder that holds everything of one study that matters."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from confrere_common.address import Address, AddressText, parse_address
from confrere_common.chain import Chain
from confrere_common.enrolment import Study
from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import certificates_in, needs_renewal, pem_of
from confrere_common.pki.keys import (
    new_key,
    public_pem,
    read_signing_key,
    read_tls_key,
    write_key,
)
from confrere_common.section import section
from confrere_common.settings import check_settings, read_settings, written
from confrere_common.storage import atomic_write
from confrere_server.membership.authority import (
    Issuer,
    issue_server,
    make_issuing,
    make_root,
    read_issuer,
)
from confrere_server.membership.seal import seal


@section
class ServerConfig:
    """What server.yaml says."""

    study: Study
    """The study's name, as hospitals read it. It stands in the certificates: don't change it."""

    address: AddressText
    """HOST:PORT under which the hospitals reach this server; the certificate follows it."""

    listen: AddressText | None = None
    """HOST:PORT on which this machine listens; empty means every interface, port of the address."""

    control_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the health service, for this machine alone (127.0.0.1); 0 means any free one."""

    body_limit_mb: Annotated[int, Field(ge=3, le=4096)] = 8
    """The largest request that is read, in megabytes; a model travels in pieces of 2 MB."""

    requests_per_s: Annotated[float, Field(gt=0)] = 100
    """How many requests a second one site may make, on average."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder, what its server.yaml says, and where everything lies."""

    folder: Path
    config: ServerConfig

    @property
    def roster(self) -> Path:
        """The sites, signed."""
        return self.folder / "roster.json"

    @property
    def audit(self) -> Path:
        """The server's audit log."""
        return self.folder / "audit.jsonl"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.folder / "runs"

    @property
    def objects(self) -> Path:
        """What Flower holds on disk while it is underway."""
        return self.folder / "objects"

    @property
    def ca(self) -> Path:
        """Certificates and keys of the two authorities."""
        return self.folder / "ca"

    @property
    def keys(self) -> Path:
        """The server's own certificate and keys."""
        return self.folder / "keys"

    @property
    def server_chain(self) -> Path:
        """The server's certificate, and the one that issued it."""
        return self.keys / "server.crt"

    @property
    def server_key(self) -> Path:
        """The private key of the server's certificate."""
        return self.keys / "server.key"

    @property
    def root(self) -> Path:
        """The roots that are trusted: two of them while one is rolled over."""
        return self.ca / "root.crt"

    @property
    def address(self) -> Address:
        """Where the hospitals reach the server."""
        return parse_address(self.config.address)

    @property
    def listen(self) -> Address:
        """Where this machine listens."""
        if self.config.listen is None:
            return Address("0.0.0.0", self.address.port)  # noqa: S104  the public port is the point
        return parse_address(self.config.listen)

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key that signs audit log, roster and releases."""
        return read_signing_key(self.keys / "signing.key")

    def chain(self) -> Chain:
        """Return the server's audit log."""
        return Chain(self.audit, self.signing_key())

    def issuer(self) -> Issuer:
        """Return the authority that issues certificates."""
        return read_issuer(self.ca / "issuing.crt", self.ca / "issuing.key")


def init(folder: Path, study: str, address: str, *, now: datetime | None = None) -> Workspace:
    """Make a workspace: authorities, keys, an empty roster, and server.yaml last of all.

    Guarantee: nothing is overwritten; ConfigError names what is there already.
    """
    plain = {"study": study, "address": address}
    config = check_settings(plain, ServerConfig, "the new workspace")
    workspace = Workspace(folder=folder, config=config)
    _refuse_what_exists(workspace)
    moment = now or datetime.now(UTC)
    _make_authorities(workspace, moment)
    _make_keys(workspace, moment)
    key = workspace.signing_key()
    atomic_write(workspace.roster, seal("roster", {"study": study, "sites": {}}, key))
    workspace.chain().append("workspace made", study=study, address=config.address)
    atomic_write(folder / "server.yaml", written(config).encode())
    return workspace


def open_workspace(folder: Path) -> Workspace:
    """Return the workspace in *folder*; ConfigError lists all that is missing or wrong."""
    settings = folder / "server.yaml"
    if not settings.is_file():
        advice = "is no workspace: make one with 'confrere server init DIR --name STUDY ...'."
        raise ConfigError([advice], str(folder))
    workspace = Workspace(folder=folder, config=read_settings(settings, ServerConfig))
    needed = (workspace.roster, workspace.root, workspace.server_chain, workspace.server_key)
    missing = [path for path in (*needed, workspace.audit) if not path.is_file()]
    if missing:
        faults = [f"{path.relative_to(folder)} is missing: restore it." for path in missing]
        raise ConfigError(faults, str(folder))
    return workspace


def renew_server(workspace: Workspace, *, now: datetime | None = None) -> bool:
    """Issue the server's certificate anew if it is due, or names another host; say whether.

    The key stays, so a running server need only load the chain again.
    """
    moment = now or datetime.now(UTC)
    host = workspace.address.host
    served = certificates_in(workspace.server_chain.read_bytes())
    issuer = workspace.issuer()
    same = issuer.certificate in served and host in _hosts(served[0])
    if same and not needs_renewal(served[0], moment):
        return False
    _issue_server(workspace, issuer, moment)
    workspace.chain().append("server certificate renewed", host=host)
    return True


def _refuse_what_exists(workspace: Workspace) -> None:
    made = (workspace.roster, workspace.audit, workspace.ca, workspace.keys)
    found = [path for path in (workspace.folder / "server.yaml", *made) if path.exists()]
    if found:
        faults = [f"{path.name} exists already, and nothing is overwritten." for path in found]
        raise ConfigError(faults, str(workspace.folder))


def _make_authorities(workspace: Workspace, now: datetime) -> None:
    study = workspace.config.study
    root = make_root(study, now)
    issuing = make_issuing(root, study, now)
    for name, issuer in (("root", root), ("issuing", issuing)):
        write_key(workspace.ca / f"{name}.key", issuer.key)
        atomic_write(workspace.ca / f"{name}.crt", pem_of(issuer.certificate))


def _make_keys(workspace: Workspace, now: datetime) -> None:
    signing = Ed25519PrivateKey.generate()
    write_key(workspace.keys / "signing.key", signing)
    atomic_write(workspace.keys / "signing.pub", public_pem(signing.public_key()))
    write_key(workspace.server_key, new_key())
    _issue_server(workspace, workspace.issuer(), now)


def _issue_server(workspace: Workspace, issuer: Issuer, now: datetime) -> None:
    key = read_tls_key(workspace.server_key).public_key()
    issued = issue_server(issuer, key, workspace.address.host, now)
    atomic_write(workspace.server_chain, pem_of(issued, issuer.certificate))


def _hosts(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
