"""Requests that no honest client makes: smuggled, endless, slow, too many; each is refused.

The server is the real one; what is sent are the bare bytes, over TLS, with a valid certificate.
"""

import base64
import contextlib
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from served import answered, caller, enrolled, make_study, raw, served, tls_of_site, until

from confrere_client.hospital.site import SiteFolder
from confrere_common.pki.keys import public_pem
from confrere_server.start import Server
from confrere_server.transport import edge

KEY = b"(the node's key)"


def ask(verb: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    named = f"flwr-public-key: {KEY.decode()}"
    head = [f"{verb} {path} HTTP/1.1", "Host: x", named, *headers, "", ""]
    return "\r\n".join(head).encode() + body


PULL = "/v1/fleet/pull-messages"
SMUGGLED = ask("GET", "/v1/control/list-runs")

ODD = {
    "no length": (ask("POST", PULL), b"411"),
    "chunked": (ask("POST", PULL, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), b"411"),
    "length and chunked": (
        ask("POST", PULL, "Content-Length: 6", "Transfer-Encoding: chunked", body=b"0\r\n\r\nG"),
        b"400",
    ),
    "two lengths": (
        ask("POST", PULL, "Content-Length: 0", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        b"400",
    ),
    "a negative length": (ask("POST", PULL, "Content-Length: -1"), b"400"),
    "a signed length": (ask("POST", PULL, "Content-Length: +2", body=b"{}"), b"400"),
    "a hexadecimal length": (ask("POST", PULL, "Content-Length: 0x2", body=b"{}"), b"400"),
    "an endless length": (ask("POST", PULL, f"Content-Length: {'9' * 5000}"), b"400"),
    "a length over the limit": (ask("POST", PULL, f"Content-Length: {2**40}"), b"413"),
    "an enormous push": (
        ask("POST", "/v1/fleet/push-messages", f"Content-Length: {2**22}"),
        b"413",
    ),
    "odd chunking": (
        ask("POST", PULL, "Transfer-Encoding: xchunked", "Content-Length: 2", body=b"{}"),
        b"40",
    ),
    "a folded header": (
        ask("POST", PULL, "Content-Length: 2", "X: a\r\n b", body=b"{}"),
        b"40",
    ),
    "a bare line feed": (b"POST " + PULL.encode() + b" HTTP/1.1\nHost: x\n\n", b"4"),
    "no http": (b"\x16\x03\x01\x00\xa5\x01\x00\x00 rubbish \r\n\r\n", b"400"),
    "an endless header": (ask("POST", PULL, "X: " + "y" * 300_000), b"4"),
    "another verb": (ask("DELETE", PULL, "Content-Length: 0"), b"404"),
    "a tunnel": (ask("CONNECT", "127.0.0.1:22"), b"40"),
    "a foreign address": (ask("GET", "http://127.0.0.1:1/v1/control/list-runs"), b"404"),
    "a websocket": (
        ask(
            "GET", "/v1/control/stream-logs", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        ),
        b"404",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ODD)
def test_a_request_is_refused_that_comes_with(server: Server, north: SiteFolder, how: str) -> None:
    request, status = ODD[how]
    key = base64.b64encode(public_pem(north.node_key().public_key()))
    with raw(server, tls_of_site(north)) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request.replace(KEY, key))

        said = answered(connection)

    codes = re.findall(rb"HTTP/1\.1 (\d+)", said)
    assert all(code.startswith(b"4") for code in codes), said
    assert not codes or codes[0].startswith(status), said


def test_a_request_behind_a_request_is_judged_by_itself(server: Server, north: SiteFolder) -> None:
    good = ask("GET", "/health")
    with raw(server, tls_of_site(north)) as connection:
        connection.sendall(good + SMUGGLED + good)

        said = answered(connection)

    assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"200", b"404", b"200"]


def test_a_body_that_never_comes_holds_nobody_up(
    server: Server, north: SiteFolder, south: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "BODY_WITHIN_S", 0.3)
    slow = ask("POST", "/v1/renew", "Content-Length: 500", body=b"{")
    with (
        raw(server, tls_of_site(north)) as connection,
        caller(server.workspace.address, tls_of_site(south)) as other,
    ):
        connection.sendall(slow)

        began = time.monotonic()
        assert other.get("/health").status_code == 200
        said = until(lambda: connection.recv(65536))

    assert time.monotonic() - began < 5
    assert b" 200 " not in said.split(b"\r\n")[0]
    assert b"CERTIFICATE" not in said


def test_too_many_requests_of_one_site_are_refused_and_no_other_site_feels_it(
    tmp_path: Path,
) -> None:
    study = make_study(tmp_path / "study")
    patient = replace(study, config=replace(study.config, requests_per_s=2.0))
    with served(patient) as server:
        sites = {name: enrolled(patient, tmp_path / name, name) for name in ("north", "south")}
        other = caller(patient.address, tls_of_site(sites["south"]))
        with other as calm, raw(server, tls_of_site(sites["north"])) as flood:
            flood.sendall(ask("GET", "/health") * 60)
            said = answered(flood)

            assert said.count(b"HTTP/1.1 429") > 0
            assert calm.get("/health").status_code == 200


def test_what_was_refused_left_no_trace_but_in_the_log(
    server: Server, south: SiteFolder, caplog: pytest.LogCaptureFixture
) -> None:
    audit = server.workspace.audit.read_bytes()
    with raw(server, tls_of_site(south)) as connection:
        connection.sendall(ask("GET", "/v1/%0d%0a2026%20all%20is%20well%1b[31m"))
        answered(connection)

    assert server.workspace.audit.read_bytes() == audit
    refused = [one.getMessage() for one in caplog.records if "refused" in one.getMessage()]
    assert any("all is well" in text for text in refused)
    assert all(text.isprintable() for text in refused)
