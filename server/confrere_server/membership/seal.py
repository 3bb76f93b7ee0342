"""A JSON file under a seal: its hash and the server's signature stand in the file with it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confrere_common.errors import CheckpointError


def hash_of(plain: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values in canonical JSON: equal values, equal hash."""
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(purpose: str, plain: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """Return the file: the values under *purpose*, their hash, and the signature."""
    hashed = hash_of(plain)
    signature = key.sign(_signed(purpose, hashed)).hex()
    content = {purpose: plain, "hash": hashed, "signature": signature}
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def unseal(purpose: str, content: bytes, key: Ed25519PublicKey) -> dict[str, Any]:
    """Return the values in a sealed file.

    Guarantee: a file whose values, hash or signature were changed by hand gives CheckpointError.
    """
    try:
        whole = json.loads(content)
        plain: dict[str, Any] = whole[purpose]
        hashed = hash_of(plain)
        key.verify(bytes.fromhex(whole["signature"]), _signed(purpose, hashed))
    except (ValueError, KeyError, TypeError, RecursionError, InvalidSignature):
        hashed, whole = "", {}
    if not hashed or whole.get("hash") != hashed or whole.keys() - {purpose, "hash", "signature"}:
        raise CheckpointError(
            f"the {purpose} is not as the server wrote it: restore the file from a backup."
        )
    return plain


def _signed(purpose: str, hashed: str) -> bytes:
    # The purpose is signed too, so that one sealed file cannot stand in for another.
    return f"confrere {purpose}\n{hashed}".encode()
