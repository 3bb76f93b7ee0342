"""The daemon's hold on its worker: started when needed, watched, ended, started again."""

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confrere_client.daemon.errand import Errand

log = logging.getLogger(__name__)

SILENT_S = 1800.0
"""A worker that says nothing for so long hangs; reading images for the first time takes long."""

DEATHS = 2
"""After the worker died so often over one errand, the round is declined."""

WORKER = "confrere_client.daemon.worker"

Said = Mapping[str, Any]


@dataclass(kw_only=True)
class Hands:
    """One worker process and what it is at."""

    folder: Path
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = WORKER
    """What the worker process runs."""

    silent_s: float = SILENT_S
    errand: Errand | None = None
    limit_s: float = float("inf")
    last: Said = field(default_factory=dict)
    """The newest progress of the errand: step, steps, loss."""

    _process: subprocess.Popen[str] | None = None
    _said: "queue.Queue[Said | None]" = field(default_factory=queue.Queue)
    _began: float = 0.0
    _heard: float = 0.0
    _deaths: int = 0

    @property
    def pid(self) -> int | None:
        """Return the worker's process id while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def give(self, errand: Errand, limit_s: float) -> None:
        """Give the worker an errand; a worker that is warm from another run is replaced.

        OSError when none can be started; the hands are then empty again.
        """
        if self.errand is not None or (self.last and self.last.get("run") != errand.run_id):
            self.drop()
        self.errand, self.limit_s, self._deaths = errand, limit_s, 0
        self.last = {"run": errand.run_id}
        self._began = time.monotonic()
        try:
            self._hand_over()
        except OSError:
            self.drop()
            raise

    def look(self) -> Said | None:
        """Return how the errand ended ({done: true} or {refused: code}), None while it goes on."""
        if self.errand is None:
            return None
        while not self._said.empty():
            said = self._said.get()
            self._heard = time.monotonic()
            if said is None:
                return self._died()
            if said.get("errand") != self.errand.key:
                continue
            if "done" in said or "refused" in said:
                self.errand = None
                return said
            self.last = {**self.last, **said}
        return self._overdue()

    def drop(self) -> None:
        """End the worker and its errand at once."""
        self.errand = None
        self.last = {}
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # of what it never read
                        pipe.close()
        self._said = queue.Queue()

    def _hand_over(self) -> None:
        if self.pid is None:
            self._start()
        self._heard = time.monotonic()
        process = self._process
        if self.errand is None or process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps(self.errand.as_dict()) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            self._said.put(None)

    def _start(self) -> None:
        said: queue.Queue[Said | None] = queue.Queue()
        self._said = said
        with self.log_file.open("ab") as errors:
            self._process = process = subprocess.Popen(  # noqa: S603  (our own module)
                [sys.executable, "-m", self.module, str(self.folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C in the terminal is for the daemon to handle
            )
        threading.Thread(target=_listen, args=(process, said), daemon=True).start()

    def _died(self) -> Said | None:
        self._deaths += 1
        errand, last = self.errand, self.last
        log.warning("the worker died (%d of %d)", self._deaths, DEATHS)
        self.drop()
        if self._deaths >= DEATHS or errand is None:
            return {"refused": "worker-died"}
        self.errand, self.last = errand, {"run": last.get("run")}
        try:
            self._hand_over()
        except OSError:
            self.drop()
            return {"refused": "worker-died"}
        return None

    def _overdue(self) -> Said | None:
        now = time.monotonic()
        code = ""
        if now - self._began > self.limit_s:
            code = "round-too-long"
        elif now - self._heard > self.silent_s:
            code = "worker-hung"
        if not code:
            return None
        log.warning("the worker was ended: %s", code)
        self.drop()
        return {"refused": code}


def _listen(process: subprocess.Popen[str], said: "queue.Queue[Said | None]") -> None:
    """Put each line that the worker says into the queue; None at its end."""
    if process.stdout is not None:
        try:
            for line in process.stdout:
                said.put(json.loads(line))
        except ValueError:
            log.warning("the worker said something that is no JSON")
    said.put(None)
