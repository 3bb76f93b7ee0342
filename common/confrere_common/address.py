"""Where a server listens: HOST:PORT, with an IPv6 host in brackets."""

import ipaddress
import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


class Address(NamedTuple):
    """A host (a name, or an IP address without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read HOST:PORT; ValueError says what is wrong with it."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("expected HOST:PORT with a port from 1 to 65535, as fl.example.org:8443")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in host) != (bare != host):
        raise ValueError("write an IPv6 address in brackets, as [2001:db8::1]:8443")
    if not is_ip(bare) and not _is_name(bare):
        raise ValueError(f"{bare!r} is neither a host name nor an IP address")
    return Address(str(ipaddress.ip_address(bare)) if is_ip(bare) else bare, int(port))


def is_ip(host: str) -> bool:
    """Say whether *host* is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    # Only digits and dots would be an IP address with a slip of the pen, such as 10.0.0.300.
    named = re.fullmatch(rf"{LABEL}(\.{LABEL})*", host) and not re.fullmatch(r"[0-9.]+", host)
    return bool(named) and len(host) <= 253


def _canonical(text: str) -> str:
    return str(parse_address(text))


AddressText = Annotated[str, AfterValidator(_canonical)]
"""HOST:PORT as a section holds it; ``parse_address`` takes it apart."""
