"""The daemon's start and end: one for a folder, ended by a signal, both noted in the audit log."""

import contextlib
import fcntl
import getpass
import signal
from collections.abc import Iterator
from pathlib import Path

from confrere_client.daemon.loop import Daemon
from confrere_client.hospital.site import SiteFolder
from confrere_common.errors import ConfigError


def start(site: SiteFolder) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; ConfigError when another one serves the folder."""
    with _alone(site.folder):
        daemon = Daemon(site=site)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: daemon.stop.set())
        site.chain().append("daemon started", by=getpass.getuser())
        daemon.run()
        site.chain().append("daemon stopped")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "daemon.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                ["another daemon serves this folder: see 'confrere client status'."], str(folder)
            ) from None
        yield
