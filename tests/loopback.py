"""A study on this machine: a workspace, and an HTTPS server that hands requests to its roster."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

from confrere_common.errors import ExchangeError
from confrere_common.pki.certificate import peer_of
from confrere_common.pki.tls import server_context
from confrere_server.membership.roster import enrol, read_roster, renew
from confrere_server.membership.workspace import Workspace, init

Change: TypeAlias = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Refused:
    """A handshake that failed at the server, and why."""

    why: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_workspace(folder: Path, study: str = "eyes") -> Workspace:
    return init(folder, study, f"127.0.0.1:{free_port()}")


def tls_of(workspace: Workspace) -> ssl.SSLContext:
    return server_context(workspace.server_chain, workspace.server_key, workspace.root)


class Edge(BaseHTTPRequestHandler):
    """It answers as the real edge does."""

    protocol_version = "HTTP/1.1"

    server: "Server"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(lambda _: b"ok" if self._peer_is_site() else None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        route = {"/v1/enrol": enrol, "/v1/renew": renew}[self.path]
        self._answer(lambda peer: self.server.change(route(self.server.workspace, peer, body)))

    def _peer_is_site(self) -> bool:
        return read_roster(self.server.workspace).admits(self._peer())

    def _peer(self) -> Any:
        return peer_of(self.connection.getpeercert(binary_form=True))  # type: ignore[attr-defined]

    def _answer(self, make: Any) -> None:
        try:
            content, status = make(self._peer()), 200
        except ExchangeError as fault:
            content, status = str(fault).encode(), 403
        content, status = (content, status) if content is not None else (b"not admitted", 403)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    workspace: Workspace
    change: Change
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a refused handshake is what some tests want


@contextmanager
def serving(workspace: Workspace, change: Change = bytes) -> Iterator[Workspace]:
    """Answer /v1/enrol and /v1/renew, as *change* would have it, and /health in threads."""
    server = Server(workspace.address, Edge)
    server.workspace, server.change = workspace, change
    server.socket = tls_of(workspace).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield workspace
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Relay(socketserver.BaseRequestHandler):
    """A proxy that knows CONNECT, and remembers to where."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        where = head.split()[1].decode()
        self.server.asked.append(where)  # type: ignore[attr-defined]
        host, _, port = where.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(other, self.request))
            back.start()
            pump(self.request, other)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def relaying() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy; give its URL, and the list of the places that it was asked for."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as proxy:
        proxy.daemon_threads = True
        proxy.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}", proxy.asked  # type: ignore[attr-defined]
        proxy.shutdown()
        thread.join()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> Any:
    """Return the TLS version and the client's certificate (DER), or ``Refused``."""
    ours, theirs = socket.socketpair()
    result: list[Any] = []

    def accept() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as connection:
                result.append((connection.version(), connection.getpeercert(binary_form=True)))
                connection.sendall(b"!")
        except (ssl.SSLError, OSError) as fault:
            result.append(Refused(str(fault)))
            ours.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=host) as connection:
            # In TLS 1.3 a client learns only at its first read that it was refused.
            answered = connection.recv(1) == b"!"
    except (ssl.SSLError, OSError) as fault:
        theirs.close()
        thread.join()
        return Refused(f"{fault}; {result[0].why if isinstance(result[0], Refused) else ''}")
    thread.join()
    return result[0] if answered else Refused("nothing was answered")
