"""Read-only status over HTTP: for whoever shows the token, on this machine alone."""

import http.client
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import make_workspace
from served import federated

from confrere_server.membership.workspace import Workspace
from confrere_server.runs.queue import Folder, submit
from confrere_server.watch.observe import Observing, observer_token, token_file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "study")


@pytest.fixture
def observing(workspace: Workspace) -> Iterator[Observing]:
    found = Observing(workspace)
    yield found
    found.stop()


@pytest.fixture
def run(workspace: Workspace) -> Folder:
    return submit(workspace.runs, federated())


def asked(
    observing: Observing, path: str, token: str | None, verb: str = "GET", kind: str = "Bearer"
) -> tuple[int, Any]:
    line = http.client.HTTPConnection("127.0.0.1", observing.port, timeout=5)
    headers = {} if token is None else {"Authorization": f"{kind} {token}"}
    line.request(verb, path, headers=headers)
    answer = line.getresponse()
    body = answer.read()
    line.close()
    json_like = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(body) if json_like else body


def test_whoever_has_the_token_sees_all_runs_and_one(
    workspace: Workspace, observing: Observing, run: Folder
) -> None:
    token = observer_token(workspace)

    status, listed = asked(observing, "/status", token)
    one = asked(observing, f"/status/{run.path.name}", token)
    begun = asked(observing, "/status/tiny?x=1", token)

    assert status == 200
    assert [one["run"] for one in listed["runs"]] == [run.path.name]
    assert one == begun
    assert one[1]["state"] == "queued"
    assert "order" not in json.dumps(one)


@pytest.mark.parametrize("token", [None, "", "x", "Bearer", "x" * 5000, "\xff\xfe"])
def test_nobody_else_sees_anything(
    workspace: Workspace, observing: Observing, run: Folder, token: str | None
) -> None:
    assert asked(observing, "/status", token)[0] == 401  # before there is any token
    observer_token(workspace)

    for path in ("/status", f"/status/{run.path.name}", "/", "/x"):
        status, said = asked(observing, path, token)
        assert status == 401
        assert run.path.name not in json.dumps(said)


def test_the_token_under_another_scheme_is_none(workspace: Workspace, observing: Observing) -> None:
    assert asked(observing, "/status", observer_token(workspace), kind="Basic")[0] == 401


@pytest.mark.parametrize(
    "path",
    ["/", "/status/a/b", "/status/../../keys/signing.key", "/status/%2e%2e", "/roster.json",
     "//status/x", "/status/nowhere", "/status/*"],
)  # fmt: skip
def test_there_is_nothing_else(workspace: Workspace, observing: Observing, path: str) -> None:
    status, said = asked(observing, path, observer_token(workspace))

    assert status == 404
    assert "fault" in said


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_nothing_can_be_changed(
    workspace: Workspace, observing: Observing, run: Folder, verb: str
) -> None:
    status, _ = asked(observing, f"/status/{run.path.name}", observer_token(workspace), verb)

    assert status == 501
    assert run.wish == ""


def test_a_new_token_ends_the_old(workspace: Workspace, observing: Observing) -> None:
    old = observer_token(workspace)
    assert observer_token(workspace) == old

    new = observer_token(workspace, new=True)

    assert asked(observing, "/status", old)[0] == 401
    assert asked(observing, "/status", new)[0] == 200
    assert stat.S_IMODE(token_file(workspace).stat().st_mode) == 0o600


def test_a_token_that_others_can_read_is_no_token(
    workspace: Workspace, observing: Observing
) -> None:
    token = observer_token(workspace)
    token_file(workspace).chmod(0o644)

    assert asked(observing, "/status", token)[0] == 401


def test_it_listens_on_this_machine_alone(observing: Observing) -> None:
    assert observing._server.server_address[0] == "127.0.0.1"
