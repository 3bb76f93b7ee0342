"""One certificate cannot take all of the public port: real sockets, real TLS."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from served import answered, enrolled, make_study, raw, served, tls_of_site

from confrere_client.hospital.site import SiteFolder
from confrere_server.start import Server
from confrere_server.transport import edge

HEALTH = b"GET /health HTTP/1.1\r\nhost: hub\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(make_study(tmp_path_factory.mktemp("crowd") / "study")) as server:
        yield server


def site(server: Server, name: str) -> SiteFolder:
    folder = server.workspace.folder.parent / name
    return enrolled(server.workspace, folder, name)


def status(server: Server, who: SiteFolder) -> bytes:
    with raw(server, tls_of_site(who)) as connection:
        connection.sendall(HEALTH)
        return answered(connection)


def test_a_certificates_connections_are_counted_and_those_beyond_are_told_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "CONNECTIONS", 3)
    greedy, modest = site(server, "greedy"), site(server, "modest")

    with ExitStack() as stack:
        held = [stack.enter_context(raw(server, tls_of_site(greedy))) for _ in range(3)]
        for connection in held:
            connection.sendall(HEALTH)
            assert answered(connection).startswith(b"HTTP/1.1 200")
        beyond, other = status(server, greedy), status(server, modest)
        held[0].sendall(HEALTH)
        first = answered(held[0])

    assert beyond.startswith(b"HTTP/1.1 429")
    assert b"connections open" in beyond
    assert b"connection: close" in beyond
    assert other.startswith(b"HTTP/1.1 200")
    assert first.startswith(b"HTTP/1.1 200")
    assert freed(server, greedy).startswith(b"HTTP/1.1 200")


def test_those_far_beyond_are_cut_at_once_and_take_nobodys_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "CONNECTIONS", 1)
    horde = site(server, "horde")

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(raw(server, tls_of_site(horde)))
        time.sleep(0.2)
        third = stack.enter_context(raw(server, tls_of_site(horde)))
        third.settimeout(5)
        with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):
            assert third.recv(1)


def freed(server: Server, who: SiteFolder) -> bytes:
    """Return what a site is told when its other connections have ended."""
    said = b""
    for _ in range(50):
        said = status(server, who)
        if said.startswith(b"HTTP/1.1 200"):
            break
        time.sleep(0.1)
    return said


def test_a_connection_that_asks_for_nothing_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "FIRST_REQUEST_S", 0.2)
    silent = site(server, "silent")

    with raw(server, tls_of_site(silent)) as connection:
        connection.settimeout(5)
        try:
            ended = connection.recv(1)
        except (ConnectionError, socket.timeout) as fault:  # noqa: UP041
            ended = repr(fault).encode()

    assert ended == b""
