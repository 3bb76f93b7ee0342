"""Private keys.

``keys.write_secret``: "Guarantee: a file that is there is never overwritten; ConfigError says so."
"""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.pki.keys import (
    new_key,
    public_pem,
    read_secret,
    read_signing_key,
    read_tls_key,
    signing_public,
    tls_public,
    write_key,
    write_secret,
)

KEY = new_key()
SIGNING = Ed25519PrivateKey.generate()


def test_a_key_is_for_its_owner_alone_from_the_start(tmp_path: Path) -> None:
    write_key(tmp_path / "keys" / "a.key", KEY)

    assert stat.S_IMODE((tmp_path / "keys" / "a.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["a.key"]
    assert read_tls_key(tmp_path / "keys" / "a.key").private_numbers() == KEY.private_numbers()


def test_a_secret_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(b"first")

    with pytest.raises(ConfigError, match="no key is ever overwritten"):
        write_secret(tmp_path / "a.key", b"second")

    assert (tmp_path / "a.key").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_key(tmp_path / "a.key", SIGNING)
    (tmp_path / "a.key").chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        read_signing_key(tmp_path / "a.key")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.key"):
        read_secret(tmp_path / "a.key")


def test_a_key_of_another_sort_is_refused(tmp_path: Path) -> None:
    write_key(tmp_path / "signing", SIGNING)
    write_key(tmp_path / "p384", KEY)
    write_key(tmp_path / "p256", ec.generate_private_key(ec.SECP256R1()))
    write_secret(tmp_path / "noise", b"noise")

    for name in ("signing", "p256", "noise"):
        with pytest.raises(ConfigError):
            read_tls_key(tmp_path / name)
    for name in ("p384", "noise"):
        with pytest.raises(ConfigError):
            read_signing_key(tmp_path / name)


def test_a_public_key_of_another_sort_is_refused() -> None:
    weak = ec.generate_private_key(ec.SECP256R1()).public_key()

    for pem in (public_pem(SIGNING.public_key()), public_pem(weak), b"noise", b""):
        with pytest.raises(ExchangeError):
            tls_public(pem)
    for pem in (public_pem(KEY.public_key()), b"noise"):
        with pytest.raises(ExchangeError):
            signing_public(pem)


def test_flower_knows_a_node_by_the_same_bytes() -> None:
    assert public_pem(KEY.public_key()) == public_key_to_bytes(KEY.public_key())
