"""TLS 1.3 with certificates on both sides, which trusts the study's root and nothing else.

A trust bundle (root_pem) may hold two roots. That is how a root is rolled over, with overlap: first
every bundle gets {old, new} (a site receives it with its renewed certificate, the new root vouched
for by the old); then certificates are issued under the new one, while both kinds are accepted; when
the last old certificate is gone, the bundles drop the old root.
"""

import ssl
from pathlib import Path

from confrere_common.errors import ConfigError


def server_context(chain_pem: Path, key: Path, root_pem: Path) -> ssl.SSLContext:
    """Return the server's side: TLS 1.3 alone, and only for a client with the study's certificate.

    Guarantee: without a certificate that chains to a root in *root_pem* there is no connection.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, chain_pem, key, root_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would skip the certificate, and with it an expiry since.
    context.num_tickets = 0
    return context


def client_context(chain_pem: Path, key: Path, root_pem: Path) -> ssl.SSLContext:
    """Return a site's side: TLS 1.3 alone, and only to the study's server under the asked name.

    Guarantee: the machine's own trust store counts for nothing, and the host's name is checked.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, chain_pem, key, root_pem)


def _context(protocol: int, chain_pem: Path, key: Path, root_pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(chain_pem, key)
        context.load_verify_locations(root_pem)
    except OSError as fault:  # of which an SSLError is one
        said = fault.strerror or type(fault).__name__
        files = f"{chain_pem}, {key}, {root_pem}"
        raise ConfigError([f"certificates cannot be used: {said}."], files) from None
    return context
