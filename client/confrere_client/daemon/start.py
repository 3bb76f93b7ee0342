"""The daemon's start and end: one for a folder, ended by a signal, both noted in the audit log."""

import getpass
import signal

from confrere_client.daemon.loop import Daemon
from confrere_client.hospital.site import SiteFolder
from confrere_common.storage import alone


def start(site: SiteFolder) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; ConfigError when another one serves the folder."""
    busy = "another daemon serves this folder: see 'confrere client status'."
    with alone(site.folder / "daemon.lock", busy):
        daemon = Daemon(site=site)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: daemon.stop.set())
        site.chain().append("daemon started", by=getpass.getuser())
        daemon.run()
        site.chain().append("daemon stopped")
