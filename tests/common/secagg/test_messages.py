"""A message has one encoding; whatever else comes is refused with a sentence."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_rounds import keys_of, params_of, verifier, weights

from confrere_common.errors import ExchangeError
from confrere_common.secagg.messages import (
    Advert,
    Confirmation,
    Params,
    Question,
    Signed,
    advert_text,
    confirmation_text,
    decode,
    digest_of,
    digest_of_seed,
    encode,
    read_advert,
)
from confrere_common.weights import weights_digest

PARAMS = params_of(["ähre", "north", "south"], weights())
ADVERT = Advert(params=digest_of(PARAMS), site="north", mask_key=bytes(32), seal_key=bytes(32))


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(encode(PARAMS)), **values}, separators=(",", ":")).encode()


def test_a_message_comes_back_as_it_went() -> None:
    question = Question(
        params=digest_of(PARAMS),
        survivors=("north",),
        dropped=("south",),
        confirmations=(Confirmation(params="00" * 32, site="north", signature=b"\0\1"),),
    )

    for value in (PARAMS, ADVERT, question):
        assert decode(type(value), encode(value)) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b" " + encode(PARAMS),
        encode(PARAMS) + b"\n",
        encode(PARAMS).replace(b":", b": "),
        encode(PARAMS).replace(b'{"run"', b'{"round":2,"run"'),
        encode(PARAMS).replace(b'"round":1', b'"round":1.0'),
        encode(PARAMS).replace(b'"round":1', b'"round":true'),
        encode(PARAMS).replace(b'"round":1', b'"round":"1"'),
        changed(more=1),
        changed(round=0),
        changed(clip=1e400),
        changed(clip=-1.0),
        changed(run="CD" * 32),
        changed(run="cd" * 31),
        changed(sites=["north", "north"]),
        changed(sites=["south", "north"]),
        changed(sites=[""]),
        changed(sites="north"),
        changed(entries=2**40),
        changed(threshold=1),
    ],
)
def test_anything_but_the_one_encoding_is_refused(raw: bytes) -> None:
    with pytest.raises(ExchangeError, match="no Params"):
        decode(Params, raw)


@settings(deadline=None, max_examples=60)
@given(raw=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_are_more_than_a_refusal(raw: bytes) -> None:
    with pytest.raises(ExchangeError):
        decode(Question, raw)


def test_a_message_is_not_taken_for_one_of_another_kind() -> None:
    with pytest.raises(ExchangeError):
        decode(Params, encode(ADVERT))


@pytest.mark.parametrize(
    "change",
    [
        {"round": 2},
        {"attempt": 2},
        {"seed": 1},
        {"roster": "00" * 32},
        {"weights": "00" * 32},
        {"threshold": 3},
        {"clip": 0.06},
        {"weight_max": 501},
    ],
)
def test_whatever_differs_makes_another_digest(change: dict[str, Any]) -> None:
    assert digest_of(replace(PARAMS, **change)) != digest_of(PARAMS)


def test_weights_of_another_value_name_or_shape_have_another_digest() -> None:
    given = weights()
    moved = {**given, "a": given["a"] + 1e-9}
    flat = {name: tensor.reshape(-1) for name, tensor in given.items()}

    due = weights_digest(given)

    assert due == weights_digest(dict(reversed(given.items())))
    for other in (moved, flat, {"w": given["w"], "b": given["a"]}, {"w": given["w"]}):
        assert weights_digest(other) != due


def test_a_digest_of_a_seed_is_of_one_site_and_round() -> None:
    one = digest_of_seed(bytes(16), "00" * 32, "north")

    assert one != digest_of_seed(bytes(16), "00" * 32, "south")
    assert one != digest_of_seed(bytes(16), "11" * 32, "north")


def test_what_is_signed_names_the_round_and_who_took_part() -> None:
    text = confirmation_text("a", "b", ("c", "d"), ("c",))

    assert text != confirmation_text("a", "b", ("c",), ("c",))
    assert text != confirmation_text("a", "b", ("c", "d"), ("d",))
    assert text != confirmation_text("x", "b", ("c", "d"), ("c",))
    assert not advert_text(b"").startswith(text[:20])


def test_keys_are_read_only_when_their_own_site_signed_them() -> None:
    keys = keys_of(PARAMS.sites)
    verify = verifier(keys)

    def signed(advert: Advert, by: str, claims: str) -> Signed:
        body = encode(advert)
        return Signed(site=claims, body=body, signature=keys[by].sign(advert_text(body)))

    assert read_advert(signed(ADVERT, "north", "north"), PARAMS, verify) == ADVERT
    for bad in (
        signed(ADVERT, "south", "north"),
        signed(ADVERT, "south", "south"),
        signed(replace(ADVERT, params="00" * 32), "north", "north"),
        replace(signed(ADVERT, "north", "north"), site="stranger"),
        replace(signed(ADVERT, "north", "north"), body=encode(ADVERT) + b" "),
    ):
        with pytest.raises(ExchangeError, match="the keys of"):
            read_advert(bad, PARAMS, verify)
