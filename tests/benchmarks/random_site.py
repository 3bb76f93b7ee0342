"""Daemons whose worker trains nothing: a random update of the right shapes goes into the outbox.

    python random_site.py FOLDER            one daemon, its worker a process as in production
    python random_site.py FOLDER FOLDER ... many in one process, each with a worker's outbox alone

All else is the product's: line, TLS, node key, policy, plans, audit log, spool, outbox.
"""

import logging
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from confrere_client.daemon import worker
from confrere_client.daemon.errand import Errand, read_spooled
from confrere_client.daemon.hands import Hands, Said
from confrere_client.daemon.loop import Daemon
from confrere_client.daemon.outbox import Outbox
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.exchange import Task, Update
from confrere_common.log import start_logging

IMAGES = 24


def random_update(site: str, task: Task) -> Update:
    random = np.random.default_rng(task.round)
    delta = {
        name: torch.from_numpy(random.random(tuple(tensor.shape), np.float32)).mul_(1e-3)
        for name, tensor in task.weights.items()
    }
    return Update(site=site, round=task.round, delta=delta, images=IMAGES)


class RandomWorker(worker.Worker):
    """Puts a random update into the outbox."""

    def carry_out(self, plain: dict[str, Any]) -> None:
        update = random_update(self.site.config.site, read_spooled(Path(plain["path"])))
        self._outbox.put(plain["key"], plain["run_id"], update)
        self.tell(errand=plain["key"], done=True)


class OwnHands(Hands):
    """Does the worker's part at once and in this process."""

    site: SiteFolder
    outbox: Outbox
    _end: Said | None = None

    def give(self, errand: Errand, limit_s: float) -> None:
        self.errand, self.limit_s = errand, limit_s
        update = random_update(self.site.config.site, read_spooled(errand.path))
        self.outbox.put(errand.key, errand.run_id, update)
        self._end = {"done": True}

    def look(self) -> Mapping[str, Any] | None:
        end, self._end = self._end, None
        if end is not None:
            self.errand = None
        return end


def daemon_of(folder: Path, *, alone: bool) -> Daemon:
    daemon = Daemon(site=open_site(folder))
    if alone:
        daemon.hands.module = "random_site"
        return daemon
    hands = OwnHands(folder=folder, log_file=folder / "worker.log")
    hands.site, hands.outbox = daemon.site, daemon.outbox
    daemon.__dict__["hands"] = hands  # in place of the cached property
    return daemon


def serve(folders: list[Path]) -> None:
    start_logging(logging.WARNING)
    daemons = [daemon_of(folder, alone=len(folders) == 1) for folder in folders]
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: [daemon.stop.set() for daemon in daemons])
    threads = [threading.Thread(target=daemon.run) for daemon in daemons[1:]]
    for thread in threads:
        thread.start()
    daemons[0].run()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    torch.set_num_threads(1)
    # As the product starts a worker: folder and the parent's process id.
    if len(sys.argv) == 3 and sys.argv[2].isdecimal():
        worker.Worker = RandomWorker  # type: ignore[misc]
        worker.main()
    else:
        serve([Path(name) for name in sys.argv[1:]])
