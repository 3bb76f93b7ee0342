import pytest

from confrere_common.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("fl.example.org:8443", Address("fl.example.org", 8443)),
        ("localhost:1", Address("localhost", 1)),
        ("10.0.0.3:65535", Address("10.0.0.3", 65535)),
        ("[2001:db8::1]:8443", Address("2001:db8::1", 8443)),
    ],
)
def test_an_address_is_taken_apart_and_put_together(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":8443", "host:0", "host:65536", "host:x", "host:-1", "host:٣"),
        *("https://host:1", "2001:db8::1:8443", "a b:1", "-a:1", "10.0.0.300:1", "[host]:1x"),
        *("host/path:1", "host\n:1", f"{'a.' * 130}a:1"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|neither|brackets"):
        parse_address(text)
