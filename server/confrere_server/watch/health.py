"""How the server is, for probes: gRPC's standard health service, on this machine alone."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from confrere_common.storage import atomic_write
from confrere_server.membership.workspace import Workspace

SERVICE = "confrere"
"""The name under which a probe asks; the empty name answers the same."""


class Health:
    """A gRPC health service on loopback; where it listens stands in ``control.json``."""

    def __init__(self, workspace: Workspace, observer_port: int = 0) -> None:
        self._servicer = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{workspace.config.control_port}")
        self._file = control_file(workspace.folder)
        self._server.start()
        self.say(serving=False)
        said = {"health_port": port, "observer_port": observer_port, "pid": os.getpid()}
        atomic_write(self._file, json.dumps(said).encode())

    def say(self, *, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING from now on."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        now = status.SERVING if serving else status.NOT_SERVING
        for name in ("", SERVICE):
            self._servicer.set(name, now)

    def stop(self) -> None:
        """Stop listening."""
        self._server.stop(grace=None)
        self._file.unlink(missing_ok=True)


def control_file(folder: Path) -> Path:
    """Return the file that says where the health service of a workspace listens."""
    return folder / "control.json"


def is_healthy(folder: Path, timeout_s: float = 3.0) -> bool:
    """Ask the server of the workspace in *folder* whether it serves; False when it is down."""
    try:
        port = int(json.loads(control_file(folder).read_bytes())["health_port"])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            said = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=timeout_s)
    except (OSError, ValueError, KeyError, TypeError, grpc.RpcError):
        return False
    return bool(said.status == health_pb2.HealthCheckResponse.ServingStatus.SERVING)
