"""A site's folder: what its join agreed on, its keys, and where everything of it lies."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confrere_common.address import Address, AddressText, parse_address
from confrere_common.chain import Chain
from confrere_common.enrolment import Study
from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import SiteName, certificates_in
from confrere_common.pki.keys import (
    TlsKey,
    read_secret,
    read_signing_key,
    read_tls_key,
    signing_public,
)
from confrere_common.section import section
from confrere_common.settings import read_settings


@section
class SiteConfig:
    """What site.yaml says."""

    study: Study
    """The study that this site joined."""

    site: SiteName
    """The name by which the study knows this site; its certificate bears it."""

    address: AddressText
    """HOST:PORT of the coordinator's server. If the server moves, write its new address here."""

    ledger: str | None = None
    """Where the privacy ledger lies; empty means in this folder. A hospital that lends the same
    patients to several studies gives all its sites one ledger, and the data set one name."""


@dataclass(frozen=True, kw_only=True)
class SiteFolder:
    """The folder, what its site.yaml says, and where everything lies."""

    folder: Path
    config: SiteConfig

    @property
    def address(self) -> Address:
        """Where the server is."""
        return parse_address(self.config.address)

    @property
    def settings(self) -> Path:
        """What was agreed; a folder without it has not joined."""
        return self.folder / "site.yaml"

    @property
    def policy(self) -> Path:
        """What the hospital allows."""
        return self.folder / "policy.yaml"

    @property
    def data(self) -> Path:
        """The data sets that the hospital registered."""
        return self.folder / "data.yaml"

    @property
    def plans(self) -> Path:
        """One folder for each run that was proposed."""
        return self.folder / "plans"

    @property
    def runs(self) -> Path:
        """One folder for each run that this site takes part in."""
        return self.folder / "runs"

    @property
    def outbox(self) -> Path:
        """Updates that are done and not yet delivered, encrypted."""
        return self.folder / "outbox"

    @property
    def audit(self) -> Path:
        """The site's audit log."""
        return self.folder / "audit.jsonl"

    @property
    def ledger(self) -> Path:
        """What private runs have spent."""
        named = self.config.ledger
        return self.folder / "ledger.sqlite" if named is None else Path(named).expanduser()

    @property
    def ledger_witness(self) -> Path:
        """The ledger's head, kept apart from it."""
        return (
            self.ledger.with_name(f"{self.ledger.name}.head")
            if self.config.ledger
            else (self.keys / "ledger.head")
        )

    @property
    def status(self) -> Path:
        """What the daemon is doing."""
        return self.folder / "status.json"

    @property
    def keys(self) -> Path:
        """Keys and certificates."""
        return self.folder / "keys"

    @property
    def site_key(self) -> Path:
        """The private key of the site's certificate."""
        return self.keys / "site.key"

    @property
    def site_chain(self) -> Path:
        """The site's certificate, and the one that issued it."""
        return self.keys / "site.crt"

    @property
    def root(self) -> Path:
        """The roots by which the server is known: two of them while one is rolled over."""
        return self.keys / "root.crt"

    def certificate(self) -> x509.Certificate:
        """Return the site's certificate."""
        return certificates_in(self.site_chain.read_bytes())[0]

    def node_key(self) -> TlsKey:
        """Return the key by which Flower knows the site's node."""
        return read_tls_key(self.keys / "node.key")

    def outbox_key(self) -> bytes:
        """Return the 32 bytes that encrypt the outbox."""
        return read_secret(self.keys / "outbox.key")

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key that signs the site's audit log."""
        return read_signing_key(self.keys / "signing.key")

    def server_signing_key(self) -> Ed25519PublicKey:
        """Return the key that signs the server's audit log, roster and releases."""
        return signing_public((self.keys / "server.pub").read_bytes())

    def chain(self) -> Chain:
        """Return the site's audit log."""
        return Chain(self.audit, self.signing_key())


def open_site(folder: Path) -> SiteFolder:
    """Return the site in *folder*; ConfigError lists all that is missing or wrong."""
    settings = folder / "site.yaml"
    if not settings.is_file():
        advice = "has not joined a study: run 'confrere client join TOKEN --dir DIR' first."
        raise ConfigError([advice], str(folder))
    site = SiteFolder(folder=folder, config=read_settings(settings, SiteConfig))
    names = ("site.key", "site.crt", "root.crt", "node.key", "outbox.key", "signing.key")
    missing = [name for name in (*names, "server.pub") if not (site.keys / name).is_file()]
    if missing:
        advice = "is missing: restore it, or join anew in another folder."
        raise ConfigError([f"keys/{name} {advice}" for name in missing], str(folder))
    return site
