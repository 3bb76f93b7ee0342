"""Keys of patients and exams: HMAC-SHA256 under a secret that never leaves the site.

RFC 2104. Who lacks the secret can neither invert a key nor try names; who has it can link a patient
over several data sets, which is what it is for. Lose it and the next exam of a known patient
becomes a new patient's.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from confrere_common.errors import ConfigError
from confrere_common.pki.keys import read_secret, write_secret

KEY_BYTES = 16
SECRET_BYTES = 32


def site_secret(path: Path) -> bytes:
    """Return the secret in *path* (0600); make one if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(path, secrets.token_bytes(SECRET_BYTES))
    secret = read_secret(path)
    if len(secret) != SECRET_BYTES:
        fault = f"holds {len(secret)} bytes, not {SECRET_BYTES}: restore it from its backup."
        raise ConfigError([fault], str(path))
    return secret


def number_of(key: str) -> int:
    """Return 64 bits of a key as a signed number: enough to tell a site's patients apart."""
    return int.from_bytes(bytes.fromhex(key[:16]), "big", signed=True)


def key_of(secret: bytes, what: str, text: str) -> str:
    """Return 32 hex digits for a *text*, unlike those of the same text as another *what*."""
    told = f"{what}:{text}".encode("utf-8", "surrogatepass")
    return hmac.digest(secret, told, hashlib.sha256)[:KEY_BYTES].hex()
