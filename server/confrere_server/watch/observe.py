"""Read-only status for those who may watch but not act: JSON over HTTP, this machine alone.

``GET /status`` lists the runs, ``GET /status/RUN`` one of them, to whoever shows the observer's
token. It listens on 127.0.0.1; from elsewhere one comes through a tunnel of the operator's making.
"""

import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from confrere_common.errors import ConfigError
from confrere_common.pki.keys import read_secret, write_secret
from confrere_server.membership.workspace import Workspace
from confrere_server.runs.queue import Folder, all_runs, find_run

REQUEST_WITHIN_S = 10.0
LOOK_EVERY_S = 0.1
"""How soon the listener notices that it shall stop."""


def token_file(workspace: Workspace) -> Path:
    """Return where the observer's token lies."""
    return workspace.keys / "observer.token"


def observer_token(workspace: Workspace, *, new: bool = False) -> str:
    """Return the observer's token, made at first; a *new* one ends the old."""
    path = token_file(workspace)
    if new:
        path.unlink(missing_ok=True)
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32).encode())
    return read_secret(path).decode()


class Observing:
    """The HTTP listener; it reads the run folders and nothing else."""

    def __init__(self, workspace: Workspace, port: int = 0) -> None:
        handler = type("Status", (_Status,), {"workspace": workspace})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_EVERY_S,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Status(BaseHTTPRequestHandler):
    workspace: Workspace
    timeout = REQUEST_WITHIN_S
    server_version = "confrere"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._allowed():
            self._say(401, {"fault": "show the observer's token: Authorization: Bearer TOKEN"})
            return
        parts = [part for part in self.path.split("?")[0].split("/") if part]
        if parts == ["status"]:
            self._say(200, {"runs": [plain_status(f) for f in all_runs(self.workspace.runs)]})
        elif len(parts) == 2 and parts[0] == "status":
            self._one(parts[1])
        else:
            self._say(404, {"fault": "there are /status and /status/RUN"})

    def _one(self, id: str) -> None:
        try:
            self._say(200, plain_status(find_run(self.workspace.runs, id)))
        except ConfigError as fault:
            self._say(404, {"fault": fault.faults[0]})

    def _allowed(self) -> bool:
        kind, _, shown = self.headers.get("Authorization", "").partition(" ")
        try:
            token = read_secret(token_file(self.workspace))
        except ConfigError:  # there is none, or one that others may have read
            return False
        return kind == "Bearer" and hmac.compare_digest(shown.strip().encode(), token)

    def _say(self, status: int, plain: Mapping[str, Any]) -> None:
        body = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: whoever watches asks every second."""


def plain_status(folder: Folder) -> dict[str, Any]:
    """Return a run's id and where it stands."""
    return {"run": folder.path.name, **vars(folder.standing)}
