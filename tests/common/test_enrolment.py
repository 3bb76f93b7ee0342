import base64

import pytest

from confrere_common.enrolment import (
    Invitation,
    Renewal,
    decode,
    encode,
    invitation_in,
    token_of,
)
from confrere_common.errors import ExchangeError

INVITATION = Invitation(
    study="Augen", site="north", address="h:1", root="root", chain="chain", key="secret-key"
)


def test_a_token_is_one_line_that_gives_the_invitation_back() -> None:
    token = token_of(INVITATION)

    assert token.isascii()
    assert set(token) & set(" \n+/=") == set()
    assert invitation_in(token) == INVITATION


def test_a_token_broken_over_lines_by_a_mail_is_read_too() -> None:
    token = token_of(INVITATION)

    assert invitation_in(f" {token[:20]}\r\n{token[20:]}\n") == INVITATION


@pytest.mark.parametrize("token", ["", "x", "päß", "AAAA", token_of(INVITATION)[:-9]])
def test_a_damaged_token_is_refused(token: str) -> None:
    with pytest.raises(ExchangeError):
        invitation_in(token)


def test_a_refusal_quotes_no_value_since_it_may_be_a_key() -> None:
    body = encode(INVITATION).replace(b'"h:1"', b'"secret"')
    token = base64.urlsafe_b64encode(body).decode()

    with pytest.raises(ExchangeError) as caught:
        invitation_in(token)

    assert "address" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"csr": 1}', b'{"csr":"a","b":1}'])
def test_a_message_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(ExchangeError, match="renewal"):
        decode(Renewal, body)


def test_an_overlong_field_is_refused() -> None:
    with pytest.raises(ExchangeError, match="csr"):
        decode(Renewal, encode({"csr": "x" * 40_000}))
