"""A whole federation on loopback, as processes that can be killed, stopped and cut off.

Server and daemons run from a frozen copy of the sources: a site works only with the very code that
the server has. What the operator does (invite, submit, look) is done in this process.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from confrere_client.hospital.join import join
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.chain import Checked, verify
from confrere_common.loading import parse_run
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.federation.submitting import signing_roster
from confrere_server.membership.roster import invite, read_roster
from confrere_server.membership.workspace import Workspace, init, open_workspace
from confrere_server.runs.queue import Folder, submit

ROOT = Path(__file__).parents[3]
PARTS = ("common", "server", "client", "deploy")
STUDY = "chaos"

TINY: Mapping[str, Any] = {
    "data": {
        "source": {"name": "site", "dataset": "phantom"},
        "image_px": 16, "channels": 3, "dims": 2,
    },
    "encoder": {"name": "vit", "depth": 1, "dim": 16, "heads": 1, "patch": 8},
    "method": {"name": "simclr", "hidden": 16, "out": 8},
    "augment": {"modality": "histology"},
    "train": {"batch": 8, "steps_per_round": 2, "device": "cpu", "optimizer_state": "keep"},
}  # fmt: skip
"""Trains a round in a tenth of a second, and keeps state at the site."""

EVERY: Mapping[str, Any] = {"quorum": 1.0, "step": "momentum"}
"""Every site is waited for, so that the weights depend on nothing that chance decides."""

POLICY: Mapping[str, Any] = {
    "threads": 1,
    "preapproved_classes": [
        {
            "study": STUDY,
            "methods": ["simclr"],
            "data_sets": ["phantom"],
            "max_rounds": 1000,
            "rosters": ["any"],
        }
    ],
}

Row = Mapping[str, Any]
"""One row of an audit log."""


def freeze(folder: Path) -> Path:
    """Copy the sources as they stand; return the folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.md", "pictures")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    return folder


def rows(log: Path) -> list[Row]:
    """Return the log's rows that are whole."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], Any], within_s: float, what: str = "") -> Any:
    ends = time.monotonic() + within_s
    while not (found := true()):
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {within_s} s: {what or true}")
        time.sleep(0.02)
    return found


@dataclass
class Wire:
    """A TCP line from a site to the server that can be cut (``refuse``) or go dead (``hold``)."""

    to: int
    port: int = field(default_factory=free_port)
    state: str = "open"
    _pairs: set[tuple[socket.socket, socket.socket]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and accept none."""
        self.state = "refuse"
        self._break()

    def hold(self) -> None:
        """Let nothing through, and nobody know."""
        self.state = "hold"

    def mend(self, *, drop: bool = False) -> None:
        """Let everything through again; with *drop*, what was held is lost."""
        if drop:
            self._break()
        self.state = "open"

    def close(self) -> None:
        self.cut()
        self._door.close()

    def _break(self) -> None:
        for pair in list(self._pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._wait()
        try:
            if self.state == "refuse":
                raise OSError
            far = socket.create_connection(("127.0.0.1", self.to), timeout=5)
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            near.close()
            return
        pair = (near, far)
        self._pairs.add(pair)
        back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)
        back.join()
        self._pairs.discard(pair)
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                self._wait()
                sink.sendall(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _wait(self) -> None:
        while self.state == "hold":
            time.sleep(0.01)


@dataclass
class Federation:
    """One workspace and its sites."""

    root: Path
    snapshot: Path
    names: tuple[str, ...] = ("alpha", "beta", "gamma")
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)
    workspace: Workspace = field(init=False)
    runs: list[Folder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workspace = init(self.root / "hub", STUDY, f"localhost:{self.port}")

    # ------------------------------------------------------------------ processes

    def start_server(self) -> None:
        self._start("server", "server", "start", "--verbose")

    def start_site(self, name: str) -> None:
        self._start(name, "client", "start")

    def start(self, who: str) -> None:
        self.start_server() if who == "server" else self.start_site(who)

    def _start(self, name: str, *command: str) -> None:
        path = os.pathsep.join(str(self.snapshot / part) for part in PARTS)
        kept = {key: said for key, said in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "confrere_deploy.cli", *command, "--dir", self.folder(name)],
                stdout=log, stderr=log, env={**kept, "PYTHONPATH": path, **one},
            )  # fmt: skip

    def folder(self, name: str) -> Path:
        return self.root / ("hub" if name == "server" else name)

    def pid(self, who: str) -> int | None:
        """Return the process id of 'server', 'alpha' or the worker 'alpha/worker'."""
        site, _, worker = who.partition("/")
        process = self.processes.get(site)
        if process is None or process.poll() is not None:
            return None
        if not worker:
            return process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def signal(self, who: str, number: int) -> bool:
        pid = self.pid(who)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def kill(self, who: str) -> bool:
        done = self.signal(who, signal.SIGKILL)
        if done and "/" not in who:
            self.processes[who].wait(10)
        return done

    def up(self, who: str) -> bool:
        return self.pid(who) is not None

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)
        for wire in self.wires.values():
            wire.close()

    # ------------------------------------------------------------------ set up

    def open(self, *, wired: bool = True) -> None:
        """Start the server, let every site join and start its daemon."""
        self.start_server()
        self.wait_for_server()
        for name in self.names:
            self.join(name)
            if wired:
                self.wire(name)
            self.start_site(name)

    def wait_for_server(self, within_s: float = 90) -> None:
        wait_until(self._listens, within_s, "the server listens")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def join(self, name: str, **policy: Any) -> SiteFolder:
        folder = self.folder(name)
        join(invite(self.workspace, name), folder)
        (folder / "policy.yaml").write_text(yaml.safe_dump({**POLICY, **policy}))
        small = {"images": 24, "patients": 24, "sites": 1, "image_px": 16}
        knobs = {**small, "seed": sum(name.encode()), "modality": "histology"}
        add(folder, "phantom", "", source="phantom", knobs=knobs)
        return open_site(folder)

    def wire(self, name: str) -> None:
        """Put a line that can be cut between the site and the server."""
        self.wires[name] = Wire(to=self.port)
        self.move(name, self.wires[name].port)

    def move(self, name: str, port: int) -> None:
        """Tell the site another address of the same server."""
        path = self.folder(name) / "site.yaml"
        text = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**text, "address": f"localhost:{port}"}))

    # ------------------------------------------------------------------ runs

    def submit(
        self,
        name: str,
        rounds: int,
        /,
        train: Row | None = None,
        masked: Row | None = None,
        **changed: Any,
    ) -> Folder:
        federation = {"rounds": rounds, "min_sites": len(self.names), **EVERY, **changed}
        plain = {**TINY, "name": name, "federation": federation}
        plain["train"] = {**TINY["train"], **(train or {})}
        plain["seeds"] = [int(federation.pop("seed", 0))]
        keys: Mapping[str, str] = {}
        if masked is not None:
            plain["secure_aggregation"] = dict(masked)
            keys = signing_roster(read_roster(self.workspace))
        made = submit(self.workspace.runs, parse_run(plain, ALL_FAMILIES), roster=keys)
        self.runs.append(made)
        return made

    def wait(self, run: Folder, within_s: float, state: str = "done") -> None:
        ended = ("done", "failed", "stopped")
        wait_until(lambda: run.standing.state in (state, *ended), within_s, f"run {state}")
        found = run.standing
        assert found.state == state, f"{run.path.name} is {found.state}: {found.why}"

    # ------------------------------------------------------------------ looking

    def log(self, who: str = "server") -> list[Row]:
        return rows(self.folder(who) / "audit.jsonl")

    def events(self, who: str, event: str, run: Folder | None = None) -> list[Row]:
        """Return the facts of the rows of that event, of one run if wanted."""
        found = [row["facts"] for row in self.log(who) if row["event"] == event]
        return [facts for facts in found if run is None or facts.get("run") == run.path.name]

    def closed(self, run: Folder) -> list[Row]:
        return self.events("server", "closed", run)

    def digests(self, run: Folder) -> list[str]:
        """Return the digest of the weights after each round."""
        return [facts["weights"] for facts in self.closed(run)]

    def checked(self, who: str) -> Checked:
        if who == "server":
            workspace = open_workspace(self.folder(who))
            return verify(workspace.audit, workspace.signing_key().public_key())
        site = open_site(self.folder(who))
        return verify(site.audit, site.signing_key().public_key(), self._witnessed(who))

    def _witnessed(self, site: str) -> dict[int, str]:
        heads = self.events("server", "site head")
        return {facts["length"]: facts["head"] for facts in heads if facts["site"] == site}

    def tail(self, who: str, lines: int = 25) -> str:
        path = self.root / f"{who}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def federation(root: Path, snapshot: Path, **options: Any) -> Iterator[Federation]:
    made = Federation(root, snapshot, **options)
    try:
        yield made
    finally:
        made.close()
