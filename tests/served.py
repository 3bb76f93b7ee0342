"""The coordinator's real server in a thread: its own TLS, edge, roster, queue and conductor."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from loopback import free_port
from tiny_runs import SIDE, tiny_run

from confrere_client.hospital.join import join
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.config import Run
from confrere_common.pki.tls import client_context
from confrere_server import start
from confrere_server.membership.roster import invite
from confrere_server.membership.workspace import Workspace, init
from confrere_server.start import Server


@contextmanager
def served(workspace: Workspace, make: Callable[..., Server] = Server) -> Iterator[Server]:
    """Run all that ``start`` runs, but for its hold on the process's signals."""
    server = make(workspace=workspace)
    public: list[Any] = []
    with mock.patch.object(start, "_on_signals", lambda _, found: public.append(found)):
        thread = threading.Thread(target=lambda: asyncio.run(start._serve(server, 10.0)))
        thread.start()
        until(lambda: bool(public) and public[0].started)
    try:
        yield server
    finally:
        server.halt.set()
        public[0].should_exit = True
        thread.join()


def until(true: Callable[[], Any], within_s: float = 15.0) -> Any:
    """Return what *true* says once it is true."""
    ends = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.02)
    return found


def make_study(folder: Path) -> Workspace:
    return init(folder, "eyes", f"127.0.0.1:{free_port()}")


def enrolled(workspace: Workspace, folder: Path, name: str, policy: str = "{}") -> SiteFolder:
    """Return the folder of a site that has joined over the line."""
    join(invite(workspace, name, again=True), folder)
    (folder / "policy.yaml").write_text(policy)
    return open_site(folder)


def tls_of_site(site: SiteFolder) -> ssl.SSLContext:
    return client_context(site.site_chain, site.site_key, site.root)


@contextmanager
def caller(address: object, tls: ssl.SSLContext) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"https://{address}", verify=tls, timeout=10) as client:
        yield client


@contextmanager
def raw(server: Server, tls: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    address = server.workspace.address
    with (
        socket.create_connection(address, timeout=10) as bare,
        tls.wrap_socket(bare, server_hostname=address.host) as connection,
    ):
        yield connection


def answered(connection: ssl.SSLSocket) -> bytes:
    """Return all that comes until the server hangs up or falls silent."""
    connection.settimeout(0.3)
    found = b""
    with suppress(TimeoutError, OSError):
        while part := connection.recv(65536):
            found += part
    return found


def federated(**federation: Any) -> Run:
    """Return a run of two quick rounds on whatever one data set a site has: 19 small arrays."""
    return tiny_run(
        "simmim",
        data={"source": {"name": "site"}, "image_px": SIDE, "channels": 1, "dims": 2},
        encoder={"name": "vit", "dim": 12, "depth": 1, "heads": 1, "patch": 8},
        federation={"rounds": 2, "min_sites": 1, "deadline_s": 60, **federation},
    )


@dataclass(frozen=True)
class Folders:
    """All that a coordinator's machine holds of a study."""

    workspace: Workspace

    def contents(self) -> dict[str, bytes]:
        root = self.workspace.folder
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def events(self) -> list[str]:
        lines = self.workspace.audit.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]
