"""Private keys: made where they are used, readable by their owner alone, never overwritten."""

import os
import tempfile
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.storage import sync_folder

CURVE = ec.SECP384R1
"""P-384: what Flower's node keys must be, and the certificates are."""

TlsKey: TypeAlias = ec.EllipticCurvePrivateKey
AnyKey: TypeAlias = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
AnyPublic: TypeAlias = ec.EllipticCurvePublicKey | Ed25519PublicKey


def new_key() -> TlsKey:
    """Return a new P-384 key, for a certificate or a Flower node."""
    return ec.generate_private_key(CURVE())


def private_pem(key: AnyKey) -> bytes:
    """Return a private key as PKCS #8, unencrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: AnyPublic) -> bytes:
    """Return a public key as SubjectPublicKeyInfo, the bytes by which Flower knows a node."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def write_secret(path: Path, secret: bytes) -> None:
    """Put a new secret at *path*, mode 0600, whole or not at all.

    Guarantee: a file that is there is never overwritten; ConfigError says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp opens with O_EXCL and mode 0600; the link fails where the name is taken.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        raise ConfigError(["exists already, and no key is ever overwritten."], str(path)) from None
    finally:
        Path(name).unlink()
    sync_folder(path.parent)


def write_key(path: Path, key: AnyKey) -> None:
    """Put a new private key at *path* as ``write_secret`` does."""
    write_secret(path, private_pem(key))


def read_secret(path: Path) -> bytes:
    """Return a secret; ConfigError where it is missing or others than its owner may read it."""
    try:
        if path.stat().st_mode & 0o077:
            fault = f"may be read by others than its owner: run chmod 600 {path}."
            raise ConfigError([fault], str(path))
        return path.read_bytes()
    except OSError as fault:
        raise ConfigError([f"cannot be read: {fault.strerror}."], str(path)) from None


def read_tls_key(path: Path) -> TlsKey:
    """Return the P-384 key in *path*; ConfigError where there is none."""
    key = _private(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVE):
        raise ConfigError(["is not a P-384 private key."], str(path))
    return key


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in *path*; ConfigError where there is none."""
    key = _private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(["is not an Ed25519 private key."], str(path))
    return key


def tls_public(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-384 public key that came over the wire; ExchangeError if it is not one."""
    key = _public(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise ExchangeError("a node key is not a P-384 public key.")
    return key


def signing_public(pem: bytes) -> Ed25519PublicKey:
    """Return the Ed25519 public key that came over the wire; ExchangeError if it is not one."""
    key = _public(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ExchangeError("a signing key is not an Ed25519 public key.")
    return key


def _private(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(["is not a private key in PEM form."], str(path)) from None


def _public(pem: bytes) -> object:
    try:
        return serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
