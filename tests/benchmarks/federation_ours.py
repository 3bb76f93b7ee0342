"""A federation of ours on loopback for a benchmark: real but for the updates, which are random."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from confrere_client.hospital.join import join
from confrere_client.hospital.registry import add
from confrere_common.loading import parse_run
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.federation.provision import free_port
from confrere_server.membership.roster import invite
from confrere_server.membership.workspace import init
from confrere_server.runs.queue import Folder, submit
from confrere_server.watch.health import is_healthy

STUDY = "benchmark"
HERE = Path(__file__).parent

POLICY: Mapping[str, Any] = {
    "preapproved_classes": [
        {"study": STUDY, "methods": ["simclr"], "data_sets": ["phantom"], "max_rounds": 1000}
    ]
}
PHANTOM = {"images": 24, "patients": 24, "sites": 1, "image_px": 16, "modality": "histology"}
"""Registered, so that the policy has something to lend; nobody opens it."""

SIZES: Mapping[str, Mapping[str, Any]] = {
    "1 MB": {"encoder": {"name": "resnet", "depth": 18, "width": 10, "groups": 5}},
    "44 MB": {"encoder": {"name": "resnet", "depth": 18, "width": 64}},
    "344 MB": {"encoder": {"name": "vit", "size": "base", "patch": 16}, "image_px": 224},
}
TINY = {"encoder": {"name": "vit", "depth": 1, "dim": 16, "heads": 1, "patch": 4}, "image_px": 8}


def run_of(name: str, size: Mapping[str, Any], rounds: int, sites: int) -> Mapping[str, Any]:
    return {
        "name": name,
        "data": {
            "source": {"name": "site", "dataset": "phantom"},
            "image_px": size.get("image_px", 64),
            "channels": 3,
            "dims": 2,
        },
        "encoder": size["encoder"],
        "method": {"name": "simclr", "hidden": 16, "out": 8},
        "augment": {"modality": "histology"},
        "train": {"batch": 8, "steps_per_round": 2, "device": "cpu"},
        "federation": {"rounds": rounds, "min_sites": sites, "quorum": 1.0},
    }


@dataclass(kw_only=True)
class Ours:
    """Folders and processes; a process serves ``together`` daemons."""

    root: Path
    names: Sequence[str]
    together: int = 1
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def open(self) -> None:
        workspace = init(self.root / "hub", STUDY, f"localhost:{free_port()}")
        self._start("server", "-m", "confrere_deploy.cli", "server", "start", "--dir", "hub")
        wait(lambda: is_healthy(workspace.folder, timeout_s=1.0), 120, "the server")
        for name in self.names:
            join(invite(workspace, name), self.root / name)
            (self.root / name / "policy.yaml").write_text(yaml.safe_dump({**POLICY}))
            self._lend(name)
        for start in range(0, len(self.names), self.together):
            group = self.names[start : start + self.together]
            self._start(group[0], str(HERE / "random_site.py"), *group)
        for name in self.names:
            wait(lambda name=name: connected(self.root / name), 120, name)

    def run(self, plain: Mapping[str, Any], within_s: float) -> Folder:
        """Submit a run and wait until it is done."""
        made = submit(self.root / "hub" / "runs", parse_run({**plain}, ALL_FAMILIES))
        wait(lambda: made.standing.state in ("done", "failed", "stopped"), within_s, "the run")
        if made.standing.state != "done":
            raise SystemExit(f"the run {made.standing.state}: {made.standing.why}; see {self.root}")
        return made

    def boundaries(self, run: Folder) -> list[float]:
        """Return when the first round was asked and when each was closed, in Unix time."""
        rows = self._rows(run)
        asked = [row for row in rows if row["event"] == "asked"][:1]
        return [moment(row) for row in (*asked, *(r for r in rows if r["event"] == "closed"))]

    def faults(self, run: Folder) -> list[str]:
        """Return what went wrong in the run's rounds: refusals, silent sites, void rounds."""
        rows = self._rows(run)
        refused = [r["facts"]["refused"] for r in rows if r["event"] == "answered"]
        return [why for why in refused if why] + [r["event"] for r in rows if r["event"] == "void"]

    def pids(self) -> Mapping[str, int]:
        """Return the processes: 'server', and a daemon's by its first site."""
        return {name: process.pid for name, process in self.processes.items()}

    def role_of(self, pid: int, command: str) -> str:
        """Return 'server', 'daemon' or 'worker'."""
        by_pid = {number: name for name, number in self.pids().items()}
        if pid in by_pid:
            return "server" if by_pid[pid] == "server" else "daemon"
        return "worker" if " -m random_site " in command else ""

    def close(self) -> None:
        for process in reversed(list(self.processes.values())):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _rows(self, run: Folder) -> list[dict[str, Any]]:
        lines = (self.root / "hub" / "audit.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [row for row in rows if row["facts"].get("run") == run.path.name]

    def _lend(self, name: str) -> None:
        if name == self.names[0]:
            add(self.root / name, "phantom", "", source="phantom", knobs=PHANTOM)
        else:
            shutil.copy(self.root / self.names[0] / "data.yaml", self.root / name)

    def _start(self, name: str, *command: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=log, cwd=self.root
            )


@contextlib.contextmanager
def ours(root: Path, names: Sequence[str], together: int = 1) -> Iterator[Ours]:
    made = Ours(root=root, names=names, together=together)
    try:
        made.open()
        yield made
    finally:
        made.close()


def connected(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "status.json").read_bytes())["connected"])
    except (OSError, ValueError, KeyError):
        return False


def moment(row: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(row["at"]).timestamp()


def wait(true: Callable[[], bool], within_s: float, what: str) -> None:
    ends = time.monotonic() + within_s
    while not true():
        if time.monotonic() > ends:
            raise SystemExit(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.05)
