"""``seal.unseal``: "Guarantee: a file whose values, hash or signature were changed by hand gives
CheckpointError."
"""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_common.errors import CheckpointError
from confrere_server.membership.seal import hash_of, seal, unseal

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PLAIN = {"study": "Augen", "sites": {"north": {"state": "active"}}}
SEALED = seal("roster", PLAIN, KEY)


def test_what_was_sealed_is_read_back() -> None:
    assert unseal("roster", SEALED, KEY.public_key()) == PLAIN
    assert json.loads(SEALED)["hash"] == hash_of(PLAIN)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(SEALED) - 1), byte=st.integers(33, 126))
def test_a_changed_letter_is_told_or_changes_nothing(at: int, byte: int) -> None:
    changed = bytearray(SEALED)
    changed[at] = byte

    try:
        found = unseal("roster", bytes(changed), KEY.public_key())
    except CheckpointError:
        return

    assert found == PLAIN  # capital letters of a signature's hexadecimal are the same signature


@pytest.mark.parametrize(
    "change",
    [
        {"roster": {"study": "Augen", "sites": {}}},
        {"hash": "0" * 64},
        {"signature": "0" * 128},
        {"signature": None},
        {"more": 1},
        {"roster": None},
    ],
)
def test_a_changed_value_is_told(change: dict[str, Any]) -> None:
    content = json.dumps({**json.loads(SEALED), **change}).encode()

    with pytest.raises(CheckpointError, match="restore"):
        unseal("roster", content, KEY.public_key())


def test_a_value_changed_together_with_its_hash_is_told() -> None:
    plain = {"study": "other"}
    content = {**json.loads(SEALED), "roster": plain, "hash": hash_of(plain)}

    with pytest.raises(CheckpointError):
        unseal("roster", json.dumps(content).encode(), KEY.public_key())


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"\xff", b'{"roster": NaN}', b"[" * 9999])
def test_what_is_no_sealed_file_is_told(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        unseal("roster", content, KEY.public_key())


def test_a_file_sealed_for_another_purpose_or_by_another_key_is_told() -> None:
    renamed = SEALED.replace(b'"roster"', b'"ledger"')

    with pytest.raises(CheckpointError):
        unseal("ledger", renamed, KEY.public_key())
    with pytest.raises(CheckpointError):
        unseal("roster", SEALED, Ed25519PrivateKey.generate().public_key())
