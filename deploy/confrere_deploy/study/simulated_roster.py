"""The keys of a simulated federation: what an enrolment gives real sites, drawn for one process."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confrere_client.masked.mask_state import Member
from confrere_common.secagg.messages import Verify
from confrere_server.masked import Veil
from confrere_server.unmask import Carry


@dataclass(frozen=True)
class SimulatedRoster:
    """Site -> its private signing key, all in one hand: good for a simulation and nothing else."""

    keys: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all names and public keys, as hexadecimal."""
        public = {site: key.public_bytes_raw().hex() for site, key in self._public.items()}
        return hashlib.sha256(repr(sorted(public.items())).encode()).hexdigest()

    @property
    def verify(self) -> Verify:
        """Return what checks a site's signature."""
        return partial(_verified, self._public)

    def member(self, site: str) -> Member:
        """Return a site among the others."""
        key = Ed25519PrivateKey.from_private_bytes(self.keys[site])
        return Member(site=site, roster=self.digest, sign=key.sign, verify=self.verify)

    def veil(self, carry: Carry, attempt: Callable[[], int] = time.time_ns) -> Veil:
        """Return the coordinator's part."""
        return Veil(carry=carry, verify=self.verify, roster=self.digest, attempt=attempt)

    # Not cached: the value travels to worker processes, and such keys do not.
    @property
    def _public(self) -> Mapping[str, Ed25519PublicKey]:
        found = {site: Ed25519PrivateKey.from_private_bytes(key) for site, key in self.keys.items()}
        return {site: key.public_key() for site, key in found.items()}


def draw_roster(sites: Iterable[str]) -> SimulatedRoster:
    """Return fresh keys for *sites*."""
    return SimulatedRoster(
        {site: Ed25519PrivateKey.generate().private_bytes_raw() for site in sites}
    )


def _verified(
    public: Mapping[str, Ed25519PublicKey], site: str, text: bytes, signature: bytes
) -> bool:
    try:
        public[site].verify(signature, text)
    except (KeyError, InvalidSignature):
        return False
    return True
