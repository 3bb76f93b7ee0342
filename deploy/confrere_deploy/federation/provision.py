"""A whole federation on one machine, real but for the distance: server, daemons, TLS, tokens.

For trying it out and for tests. Every process is the one that a deployment runs, started with the
same commands; folders and keys are those of a real study, and may be thrown away.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confrere_client.hospital.join import join
from confrere_client.hospital.policy import Policy, policy_text
from confrere_client.hospital.registry import add
from confrere_common.errors import ConfigError
from confrere_common.family import Named
from confrere_common.storage import atomic_write
from confrere_server.membership.roster import invite
from confrere_server.membership.workspace import init
from confrere_server.watch.health import is_healthy

START_WITHIN_S = 60.0
"""Time in which the server must answer; a cold machine takes long to load torch."""

PHANTOM: Mapping[str, object] = {"modality": "lesion", "images": 600, "patients": 200}
"""The phantom hospitals' images; each lends those of one acquisition site."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the demo hospitals take their images from."""

    source: str
    path: str
    knobs: Mapping[str, object]
    only_sites: Sequence[str | None]
    """The acquisition site of each hospital; None for the whole set."""


@dataclass(kw_only=True)
class Demo:
    """The folders and processes of a federation on this machine."""

    folder: Path
    sites: Sequence[str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        """Return the coordinator's workspace."""
        return self.folder / "coordinator"

    def site(self, name: str) -> Path:
        """Return a hospital's folder."""
        return self.folder / name

    def start(self, name: str) -> None:
        """Start the server ("coordinator") or a hospital's daemon, its output in a log file."""
        role = "server" if name == "coordinator" else "client"
        command = [sys.executable, "-m", "confrere_deploy.cli", role, "start"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603  (our own command)
                [*command, "--dir", str(self.folder / name)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def stop(self) -> None:
        """End every process, the daemons first."""
        for name in sorted(self.processes, key=lambda n: n == "coordinator"):
            process = self.processes.pop(name)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def provision(folder: Path, data: Data, *, port: int = 0, say: Callable[[str], None]) -> Demo:
    """Make and start a federation in the new *folder*; ConfigError if something is there."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(["is not empty: choose another folder, or remove it."], str(folder))
    sites = [f"hospital-{number}" for number in range(1, len(data.only_sites) + 1)]
    demo = Demo(folder=folder, sites=sites)
    address = f"localhost:{port or free_port()}"
    workspace = init(demo.coordinator, "demo", address)
    say(f"coordinator at {address}")
    demo.start("coordinator")
    try:
        _wait_for(demo)
        for name, only in zip(sites, data.only_sites, strict=True):
            join(invite(workspace, name), demo.site(name))
            atomic_write(demo.site(name) / "policy.yaml", policy_text(Policy()).encode())
            made = add(
                demo.site(name), "demo", data.path, source=data.source, only_site=only,
                knobs=data.knobs,
            )  # fmt: skip
            say(f"{name} has joined with {made.images} images")
            demo.start(name)
    except BaseException:
        demo.stop()
        raise
    return demo


def phantom(sites: int) -> Data:
    """Return the embedded images, one acquisition site for each of so many hospitals."""
    knobs = {**PHANTOM, "sites": sites}
    return Data(source="phantom", path="", knobs=knobs, only_sites=_phantom_sites(knobs))


def table(path: Path, knobs: Mapping[str, object], sites: int) -> Data:
    """Return a data set of one's own: its acquisition sites, or the whole for every hospital."""
    from confrere_client.source import open_source

    source = "npz" if path.suffix == ".npz" else "folder" if path.is_dir() else "catalog"
    named = Named(name=source, knobs={"path": str(path.absolute()), **knobs})
    names = sorted({record.site for record in open_source(named, Path()).records()} - {"", None})
    only: list[str | None] = [*names[:sites]] if len(names) >= sites else [None] * sites
    return Data(source=source, path=str(path), knobs=knobs, only_sites=only)


def free_port() -> int:
    """Return a port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    return found


@contextlib.contextmanager
def running(demo: Demo) -> Iterator[Demo]:
    """Stop the demo's processes whatever happens."""
    try:
        yield demo
    finally:
        demo.stop()


def _wait_for(demo: Demo) -> None:
    ends = time.monotonic() + START_WITHIN_S
    while not is_healthy(demo.coordinator, timeout_s=1.0):
        if demo.processes["coordinator"].poll() is not None or time.monotonic() > ends:
            raise ConfigError(
                [f"the server did not start: see {demo.folder / 'coordinator.log'}."], "the demo"
            )
        time.sleep(0.2)


def _phantom_sites(knobs: Mapping[str, object]) -> Sequence[str | None]:
    from confrere_client.source import open_source

    named = Named(name="phantom", knobs=dict(knobs))
    return sorted({record.site for record in open_source(named, Path()).records()})
