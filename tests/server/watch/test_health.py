"""Probes: gRPC's health service on this machine alone."""

import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loopback import make_workspace

from confrere_server.watch.health import SERVICE, Health, control_file, is_healthy


def test_a_probe_learns_whether_the_server_serves(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    assert not is_healthy(workspace.folder)

    health = Health(workspace, observer_port=7)
    starting = is_healthy(workspace.folder)
    health.say(serving=True)
    serving = is_healthy(workspace.folder)
    plain = json.loads(control_file(workspace.folder).read_text())
    health.say(serving=False)
    draining = is_healthy(workspace.folder)
    health.stop()

    assert (starting, serving, draining) == (False, True, False)
    assert plain["observer_port"] == 7
    assert not control_file(workspace.folder).exists()
    assert not is_healthy(workspace.folder, timeout_s=0.5)


def test_any_grpc_probe_can_ask_under_either_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    health = Health(workspace)
    health.say(serving=True)
    port = json.loads(control_file(workspace.folder).read_text())["health_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        said = [
            stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            for name in ("", SERVICE)
        ]
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    health.stop()

    assert said == [health_pb2.HealthCheckResponse.ServingStatus.SERVING] * 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"health_port": "x"}', '{"health_port": 1}', "null"]
)
def test_a_damaged_control_file_means_that_it_is_down(tmp_path: Path, text: str) -> None:
    control_file(tmp_path).write_text(text)

    assert not is_healthy(tmp_path, timeout_s=0.5)
