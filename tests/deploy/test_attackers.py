"""Whoever is not an enrolled, approving site gets nothing from the coordinator's public port.

The server is the real one: its TLS, edge, roster and Flower's app behind them, on this machine.
"""

import contextlib
import http.client
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from served import caller, enrolled, make_study, served, tls_of_site

from confrere_client.daemon.fleet import Line, LineCut
from confrere_client.hospital.join import join
from confrere_client.hospital.site import SiteFolder
from confrere_common.code import bundle
from confrere_common.enrolment import Request, encode, invitation_in
from confrere_common.errors import ExchangeError
from confrere_common.pki.certificate import request_for
from confrere_common.pki.keys import new_key, public_pem
from confrere_common.pki.tls import client_context
from confrere_server.membership.roster import invite, revoke
from confrere_server.start import Server
from confrere_server.transport import edge

NOTHING = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)
"""What a client meets whose handshake or request is cut off."""

SECRET = "the weights that were not meant for it"  # noqa: S105

FORBIDDEN = (
    "/",
    "/docs",
    "/docs/oauth2-redirect",
    "/openapi.json",
    "/redoc",
    "/metrics",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/stop-run",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-task-input",
    "/v1/runtime/push-messages",
    "/v1/runtime/responses",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/get-fab",
    "/v1/fleet/pull-messages/",
    "/v1/fleet//pull-messages",
    "//v1/fleet/pull-messages",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1%2fcontrol/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages%00/../get-fab",
    "/v1/fleet/pull-messages;/v1/control/list-runs",
    "/V1/FLEET/pull-messages",
    "/v1/enrol",
    "/v1/enrol/",
    "/health/../v1/control/list-runs",
)


def line_of(site: SiteFolder, key: SiteFolder | None = None) -> Line:
    return Line(str(site.address), tls_of_site(site), (key or site).node_key())


def connected(server: Server, line: Line) -> int:
    """Connect once the server has seen the roster's newest site."""
    server.nodes()
    return line.connect()


def invited_tls(token: str, folder: Path) -> ssl.SSLContext:
    invitation = invitation_in(token)
    parts = {"chain": invitation.chain, "key": invitation.key, "root": invitation.root}
    for name, text in parts.items():
        (folder / name).write_text(text)
    return client_context(folder / "chain", folder / "key", folder / "root")


def enrolment(site: str) -> bytes:
    signing = Ed25519PrivateKey.generate()
    return encode(
        Request(
            csr=request_for(site, new_key()).decode(),
            node_key=public_pem(new_key().public_key()).decode(),
            audit_key=public_pem(signing.public_key()).decode(),
        )
    )


# ------------------------------------------------------------------------- who they say they are


def test_without_a_certificate_no_byte_of_http_is_read(server: Server, north: SiteFolder) -> None:
    bare = ssl.create_default_context(cafile=str(north.root))

    for path in ("/health", "/v1/enrol", "/v1/fleet/pull-messages"):
        with caller(server.workspace.address, bare) as client, pytest.raises(NOTHING):
            client.post(path, content=b"x")


def test_a_certificate_of_another_studys_authority_is_worth_nothing(
    server: Server, north: SiteFolder, tmp_path: Path
) -> None:
    with served(make_study(tmp_path / "other")) as other:
        twin = enrolled(other.workspace, tmp_path / "twin", "north")
    foreign = client_context(twin.site_chain, twin.site_key, north.root)

    with caller(server.workspace.address, foreign) as client, pytest.raises(NOTHING):
        client.get("/health")


def test_older_tls_is_not_spoken(server: Server, north: SiteFolder) -> None:
    tls = tls_of_site(north)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.maximum_version = ssl.TLSVersion.TLSv1_2

    with caller(server.workspace.address, tls) as client, pytest.raises(NOTHING):
        client.get("/health")


def test_plain_http_is_not_spoken(server: Server) -> None:
    with pytest.raises(NOTHING):
        httpx.get(f"http://{server.workspace.address}/health", timeout=5)


def test_a_revoked_site_gets_nothing_even_over_a_connection_that_was_open(
    server: Server, tmp_path: Path
) -> None:
    gone = enrolled(server.workspace, tmp_path / "gone", "gone")
    address = server.workspace.address
    with caller(address, tls_of_site(gone)) as open_before, line_of(gone) as line:
        connected(server, line)
        assert open_before.get("/health").status_code == 200

        revoke(server.workspace, "gone", "left")

        assert open_before.get("/health").status_code == 403
        assert open_before.post("/v1/renew", content=b"{}").status_code == 403
        with pytest.raises(LineCut, match="403"):
            line.beat()
        with pytest.raises(LineCut, match="403"):
            line.poll()
    with caller(address, tls_of_site(gone)) as anew:
        assert anew.get("/health").status_code == 403
    assert "gone" not in server.nodes()


def test_an_invitation_opens_nothing_but_enrolment(server: Server, tmp_path: Path) -> None:
    tls = invited_tls(invite(server.workspace, "guest"), tmp_path)

    with caller(server.workspace.address, tls) as client:
        answers = [client.post(path, content=b"x") for path in (*FORBIDDEN[:-4], "/v1/renew")]
        answers += [client.post(path, content=b"x") for path in sorted(edge.FLEET)]
        answers += [client.get("/health"), client.post("/v1/echo", content=b"x")]
        rubbish = client.post("/v1/enrol", content=b"rubbish")

    assert {answer.status_code for answer in answers} <= {404, 400}
    assert rubbish.status_code == 403


def test_an_invitation_is_good_once(server: Server, tmp_path: Path) -> None:
    token = invite(server.workspace, "once")
    tls = invited_tls(token, tmp_path)
    join(token, tmp_path / "first")

    with caller(server.workspace.address, tls) as client:
        again = client.post("/v1/enrol", content=enrolment("once"))

    assert again.status_code == 403
    with pytest.raises(ExchangeError, match="--again"):
        join(token, tmp_path / "second")


def test_an_invitation_enrols_no_other_site(server: Server, tmp_path: Path) -> None:
    tls = invited_tls(invite(server.workspace, "alpha"), tmp_path)

    with caller(server.workspace.address, tls) as client:
        answer = client.post("/v1/enrol", content=enrolment("north"))

    assert answer.status_code == 403
    assert b"BEGIN CERTIFICATE" not in answer.content


def test_a_site_cannot_speak_with_another_sites_node_key(
    server: Server, north: SiteFolder, south: SiteFolder
) -> None:
    with line_of(north, key=south) as line, pytest.raises(LineCut, match="403"):
        connected(server, line)


def test_a_site_cannot_speak_with_a_key_of_its_own_making(
    server: Server, north: SiteFolder
) -> None:
    made = ec.generate_private_key(ec.SECP384R1())

    with (
        Line(str(north.address), tls_of_site(north), made) as line,
        pytest.raises(LineCut, match="403"),
    ):
        connected(server, line)


def test_a_site_that_names_another_key_in_the_request_is_not_believed(
    north: SiteFolder, south: SiteFolder
) -> None:
    request = ActivateNodeRequest(
        public_key=public_pem(south.node_key().public_key()), heartbeat_interval=30
    )

    with line_of(north) as line, pytest.raises(httpx.HTTPStatusError, match="401"):
        line._client.ActivateNode(request)


# ----------------------------------------------------------------------------- what they ask for


def test_a_valid_site_finds_no_other_way_in(server: Server, north: SiteFolder) -> None:
    address, statuses = server.workspace.address, {}
    plain = http.client.HTTPSConnection(*address, context=tls_of_site(north), timeout=10)
    with contextlib.closing(plain):  # it sends a path as it is, unlike httpx
        for path in FORBIDDEN:
            for verb in ("GET", "POST", "OPTIONS"):
                plain.request(verb, path, body=b"{}")
                answer = plain.getresponse()
                statuses[verb, path] = answer.status, answer.read()

    assert set(statuses.values()) == {(404, b"there is nothing here")}


def test_even_a_connected_node_finds_no_bundle_and_no_registration(
    server: Server, north: SiteFolder
) -> None:
    from flwr.proto.fab_pb2 import GetFabRequest
    from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest, UnregisterNodeFleetRequest

    with line_of(north) as line:
        node = connected(server, line)
        run = server.link.begin(bundle())
        calls = (
            lambda: line._client.GetFab(
                GetFabRequest(node=Node(node_id=node), run_id=run, hash_str=line.bundle(run))
            ),
            lambda: line._client.RegisterNode(RegisterNodeFleetRequest(public_key=b"x")),
            lambda: line._client.UnregisterNode(UnregisterNodeFleetRequest(node_id=node)),
        )
        for call in calls:
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                call()
        server.link.end(run)


def test_a_site_gets_no_task_but_its_own(
    server: Server, north: SiteFolder, south: SiteFolder
) -> None:
    with line_of(north) as ours, line_of(south) as theirs:
        victim, spy = connected(server, ours), connected(server, theirs)
        run = server.link.begin(bundle())
        content = RecordDict({"task": ConfigRecord({"run": SECRET})})
        sent = server.link.push(run, [victim], content, kind="train", group="")

        polled = theirs.poll()
        as_the_victim = PullMessagesRequest(node=Node(node_id=victim))
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            theirs._client.PullMessages(as_the_victim)
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            theirs._client.DeactivateNode(DeactivateNodeRequest(node_id=victim))
        guess = PullObjectRequest(node=Node(node_id=spy), run_id=run, object_id="0" * 64)
        assert not theirs._client.PullObject(guess).object_found

        incoming = ours.poll()
        assert polled is None
        assert incoming is not None
        assert incoming.message.metadata.message_id == sent[victim]
        assert ours.fetch(incoming)["task"]["run"] == SECRET  # type: ignore[index]
        server.link.end(run)


def test_a_run_that_does_not_exist_tells_nothing(server: Server, north: SiteFolder) -> None:
    with line_of(north) as line:
        node = connected(server, line)

        with pytest.raises(httpx.HTTPStatusError):
            line._client.GetRun(GetRunRequest(node=Node(node_id=node), run_id=12345))
