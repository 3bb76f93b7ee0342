"""Masks: streams of AES in counter mode under keys that two sites, or one alone, can make.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), AES-256-CTR, ChaCha20-Poly1305 (RFC 8439), all from
``cryptography``. Every key is for one purpose, one round and one pair, and is used once.
"""

import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from confrere_common.errors import ExchangeError
from confrere_common.secagg.fixed_point import CHUNK, Vector

Draw: TypeAlias = Callable[[int], bytes]
"""So many bytes from a cryptographically secure source: ``os.urandom``."""

SEED_BYTES = 16
"""128 bits, the strength of X25519 itself; and what pycryptodome's Shamir shares in one piece."""

NONCE_BYTES = 12


def derive(secret: bytes, *purpose: str) -> bytes:
    """Return 32 bytes that depend on *secret* and on every word of *purpose*."""
    info = json.dumps(["confrere secagg 1", *purpose]).encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def private_of(seed: bytes, params: str, purpose: str) -> X25519PrivateKey:
    """Return the private key that a seed stands for in one round."""
    return X25519PrivateKey.from_private_bytes(derive(seed, purpose, params))


def public_of(private: X25519PrivateKey) -> bytes:
    """Return the public key as its 32 bytes."""
    return private.public_key().public_bytes_raw()


def agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return what two sites alone know; ExchangeError for a key with which all would know it."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ExchangeError(
            "a public key of the round is of low order, and hides nothing"
        ) from None


def pair_key(private: X25519PrivateKey, public: bytes, params: str, pair: tuple[str, str]) -> bytes:
    """Return the key of the mask that the two sites of *pair* share, the same at both."""
    return derive(agreed(private, public), "pair mask", params, *sorted(pair))


def own_key(seed: bytes, params: str) -> bytes:
    """Return the key of the mask that one site alone lays on its update."""
    return derive(seed, "own mask", params)


def add_masks(vector: Vector, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add, in place and modulo 2 ** 32, the streams of *plus* and subtract those of *minus*.

    Every stream is made and used a chunk at a time: memory does not grow with sites or model.
    """
    zeros = bytes(4 * CHUNK)
    made = bytearray(4 * CHUNK + 16)  # older versions of cryptography want room for a block more
    streams: list[tuple[CipherContext, np.ufunc]] = [(_stream(key), np.add) for key in plus]
    streams += [(_stream(key), np.subtract) for key in minus]
    for start in range(0, len(vector), CHUNK):
        part = vector[start : start + CHUNK]
        mask = np.frombuffer(made, np.dtype("<u4"), len(part))
        for stream, apply in streams:
            stream.update_into(memoryview(zeros)[: 4 * len(part)], made)
            apply(part, mask, out=part)


def seal(key: bytes, plain: bytes, context: bytes, draw: Draw) -> bytes:
    """Return *plain* so that only who has *key* reads it, and an alteration shows."""
    nonce = draw(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, context)


def unseal(key: bytes, box: bytes, context: bytes) -> bytes | None:
    """Return what was sealed; None if the box was altered or is another's."""
    try:
        return ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        return None


def _stream(key: bytes) -> CipherContext:
    # A counter from zero: the key is never used for a second stream.
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
