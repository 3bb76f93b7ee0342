"""The edge by itself, as an ASGI app: who may call what, how much and how often.

With sockets, TLS and Flower behind it, it is in ``tests/deploy/test_attackers.py``.
"""

import asyncio
import base64
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import make_workspace

from confrere_common.enrolment import Grant, Request, decode, encode, invitation_in
from confrere_common.errors import CheckpointError, ExchangeError
from confrere_common.pki.certificate import Peer, certificates_in, peer_of, request_for
from confrere_common.pki.keys import new_key, public_pem
from confrere_server.membership.roster import enrol, invite, read_roster, revoke
from confrere_server.membership.workspace import Workspace
from confrere_server.transport import edge
from confrere_server.transport.edge import CERTIFICATE, FLEET, NODE_KEY, Edge, Limits, Noting, Pace

PULL = "/v1/fleet/pull-messages"
LIMITS = Limits(body_bytes=4 * 2**20, requests_per_s=1000)


@dataclass
class Site:
    name: str
    certificate: bytes
    node_key: bytes


def enrolled(workspace: Workspace, name: str) -> Site:
    invitation = invitation_in(invite(workspace, name))
    node = public_pem(new_key().public_key())
    asked = Request(
        csr=request_for(name, new_key()).decode(),
        node_key=node.decode(),
        audit_key=public_pem(Ed25519PrivateKey.generate().public_key()).decode(),
    )
    guest = peer_of(der(invitation.chain))
    grant = decode(Grant, enrol(workspace, guest, encode(asked)))
    return Site(name, der(grant.chain), node)


def der(chain: str) -> bytes:
    return certificates_in(chain.encode())[0].public_bytes(Encoding.DER)


@dataclass
class Behind:
    """What the edge lets through, and what it tells."""

    workspace: Workspace
    calls: list[tuple[str, str, bytes]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    seen: list[Peer] = field(default_factory=list)
    limits: Limits = LIMITS
    desk: Callable[[Peer, bytes], bytes] = lambda _, body: b"desk " + body
    roster: Any = None

    async def fleet(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.calls.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fleet"})

    def edge(self) -> Edge:
        desks = {("invite", "/v1/enrol"): self.desk, ("site", "/v1/renew"): self.desk}
        noting = Noting(refused=lambda *told: self.told.append(told), saw=self.seen.append)
        roster = self.roster or (lambda: read_roster(self.workspace))
        return Edge(self.fleet, roster, self.limits, desks, noting)  # type: ignore[arg-type]


@dataclass
class Said:
    status: int = 0
    body: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)


def ask(
    app: Edge,
    verb: str,
    path: str,
    site: Site | None = None,
    body: tuple[bytes, ...] = (b"",),
    certificate: bytes | None = None,
    **headers: str,
) -> Said:
    given = {
        NODE_KEY: base64.b64encode(site.node_key) if site else b"",
        b"content-length": b"%d" % sum(map(len, body)),
        **{name.replace("_", "-").encode(): text.encode() for name, text in headers.items()},
    }
    scope = {
        "type": "http",
        "method": verb,
        "path": path,
        "headers": [pair for pair in given.items() if pair[1]],
        CERTIFICATE: certificate if certificate is not None else (site and site.certificate),
    }
    said, parts = Said(), list(body)

    async def receive() -> Any:
        if not parts:
            await asyncio.sleep(9)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.status, said.headers = message["status"], dict(message["headers"])
        else:
            said.body += message["body"]

    asyncio.run(app(scope, receive, send))
    return said


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("server") / "study")


@pytest.fixture(scope="module")
def north(workspace: Workspace) -> Site:
    return enrolled(workspace, "north")


@pytest.fixture(scope="module")
def guest(workspace: Workspace) -> bytes:
    return der(invitation_in(invite(workspace, "guest")).chain)


@pytest.fixture
def behind(workspace: Workspace) -> Behind:
    return Behind(workspace)


def test_flower_names_its_headers_as_before() -> None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

    advice = f"flwr is {importlib.metadata.version('flwr')}: see edge.NODE_KEY and node_auth.py"
    assert FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode() == NODE_KEY, advice


@pytest.mark.parametrize("path", sorted(FLEET))
def test_a_site_reaches_the_calls_that_a_node_needs(behind: Behind, north: Site, path: str) -> None:
    said = ask(behind.edge(), "POST", path, north, (b"he", b"llo"))

    assert (said.status, said.body) == (200, b"fleet")
    assert behind.calls == [("POST", path, b"hello")]
    assert behind.told == []


@settings(deadline=None, max_examples=150)
@given(
    path=st.one_of(
        st.text(max_size=40),
        st.sampled_from(sorted(FLEET)).map(lambda p: p + "/"),
        st.builds("{}{}".format, st.sampled_from(sorted(FLEET)), st.text(min_size=1, max_size=9)),
        st.sampled_from(["/v1/control/start-run", "/docs", "/v1/fleet/register-node", ""]),
    ),
    verb=st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "HEAD", "TRACE", "CONNECT"]),
)
def test_no_other_path_reaches_anything(
    workspace: Workspace, north: Site, path: str, verb: str
) -> None:
    behind = Behind(workspace)

    said = ask(behind.edge(), verb, path, north, (b"x",))

    assert behind.calls == []
    assert said.status == 404
    assert all(why.isprintable() for _, why in behind.told)


@pytest.mark.parametrize("path", [*sorted(FLEET), "/v1/renew", "/v1/echo"])
def test_an_invitation_reaches_enrolment_alone(behind: Behind, guest: bytes, path: str) -> None:
    app = behind.edge()

    assert ask(app, "POST", path, certificate=guest).status == 404
    assert ask(app, "GET", "/health", certificate=guest).status == 404
    assert ask(app, "POST", "/v1/enrol", certificate=guest, body=(b"x",)).body == b"desk x"
    assert behind.calls == []


@pytest.mark.parametrize("certificate", [None, b"", b"rubbish"])
def test_nobody_without_a_certificate_reaches_anything(
    behind: Behind, certificate: bytes | None
) -> None:
    for verb, path in (("GET", "/health"), ("POST", PULL), ("POST", "/v1/enrol")):
        assert ask(behind.edge(), verb, path, certificate=certificate).status == 403
    assert behind.calls == []
    assert {who for who, _ in behind.told} == {"?"}


def test_the_node_key_must_be_the_sites(workspace: Workspace, behind: Behind, north: Site) -> None:
    other = enrolled(workspace, "other")
    for key in (other.node_key, b"", b"x", north.node_key + b"\n"):
        mixed = Site("north", north.certificate, key)
        assert ask(behind.edge(), "POST", PULL, mixed).status == 403
    assert ask(behind.edge(), "POST", PULL, north, flwr_public_key="%%%").status == 403
    assert behind.calls == []


def test_a_revoked_site_reaches_nothing(workspace: Workspace, behind: Behind) -> None:
    gone = enrolled(workspace, "gone")
    app = behind.edge()
    assert ask(app, "POST", PULL, gone).status == 200

    revoke(workspace, "gone", "left")

    for verb, path in (("POST", PULL), ("GET", "/health"), ("POST", "/v1/renew")):
        assert ask(app, verb, path, gone).status == 403
    assert len(behind.calls) == 1


@pytest.mark.parametrize("fault", [CheckpointError("/secret/roster.json"), OSError("/secret")])
def test_without_a_roster_nobody_is_let_in(behind: Behind, north: Site, fault: Exception) -> None:
    def broken() -> Any:
        raise fault

    behind.roster = broken

    said = ask(behind.edge(), "POST", PULL, north)

    assert said.status == 503
    assert b"secret" not in said.body
    assert behind.calls == []


@pytest.mark.parametrize(
    ("path", "limit"),
    [(PULL, edge.BODY), ("/v1/fleet/push-messages", edge.BODY), ("/v1/renew", edge.SMALL_BODY),
     ("/v1/fleet/push-object", LIMITS.body_bytes), ("/v1/echo", LIMITS.body_bytes)],
)  # fmt: skip
def test_a_body_has_its_limit(behind: Behind, north: Site, path: str, limit: int) -> None:
    app = behind.edge()

    most = ask(app, "POST", path, north, (bytes(limit),))
    more = ask(app, "POST", path, north, (bytes(limit + 1),))
    closing = more.headers[b"connection"]

    assert most.status == 200
    assert (more.status, closing) == (413, b"close")


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.0", "0x1", "1e3", " 1", "\u0661", "1,1"])
def test_a_length_must_be_told_in_digits(behind: Behind, north: Site, length: str) -> None:
    said = ask(behind.edge(), "POST", PULL, north, content_length=length)

    assert said.status == 411
    assert behind.calls == []


@pytest.mark.parametrize("path", ["/v1/fleet/push-object", "/v1/echo"])
def test_a_body_that_is_longer_than_it_said_is_cut_off(
    behind: Behind, north: Site, path: str
) -> None:
    parts = tuple(bytes(2**20) for _ in range(6))

    said = ask(behind.edge(), "POST", path, north, parts, content_length="5")

    assert said.status == 0
    assert behind.calls == []


def test_a_body_that_stalls_is_given_up(
    behind: Behind, north: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "BODY_WITHIN_S", 0.05)

    said = ask(behind.edge(), "POST", "/v1/renew", north, (), content_length="5")

    assert said.status == 500
    assert said.body == b"TimeoutError"


def test_each_site_has_a_pace_of_its_own(workspace: Workspace, north: Site) -> None:
    south = enrolled(workspace, "south")
    behind = Behind(workspace, limits=Limits(body_bytes=100, requests_per_s=1))
    app = behind.edge()

    statuses = [ask(app, "GET", "/health", north).status for _ in range(8)]

    assert statuses == [200] * 5 + [429] * 3
    assert ask(app, "GET", "/health", south).status == 200


@given(st.lists(st.floats(0, 10), max_size=60), st.floats(0.1, 50))
def test_a_pace_is_never_passed(pauses: list[float], per_s: float) -> None:
    now = [0.0]
    pace = Pace(per_s=per_s, clock=lambda: now[0])
    allowed = 0
    for pause in pauses:
        now[0] += pause
        allowed += pace.allows("north")

    assert allowed <= pace.burst + now[0] * per_s + 1e-6


def test_refusals_cannot_fill_a_log(behind: Behind, north: Site) -> None:
    app = behind.edge()

    for number in range(200):
        ask(app, "GET", f"/x{number}", north)

    assert len(behind.told) <= 7
    assert behind.told[0] == ("north", "'/x0': there is nothing here")


def test_a_desk_is_called_a_few_times_a_minute_at_most(
    workspace: Workspace, behind: Behind, north: Site
) -> None:
    app = behind.edge()

    statuses = [ask(app, "POST", "/v1/renew", north).status for _ in range(30)]

    assert statuses.count(200) == edge.DESK_AT_ONCE
    assert set(statuses[10:]) == {429}
    assert ask(app, "POST", "/v1/renew", enrolled(workspace, "hasty")).status == 200


def test_a_desk_that_refuses_says_why_and_one_that_breaks_says_nothing(
    behind: Behind, north: Site
) -> None:
    def refuse(*_: object) -> bytes:
        raise ExchangeError("it does not fit")

    def fail(*_: object) -> bytes:
        raise RuntimeError("/secret/key")

    behind.desk = refuse
    refused = ask(behind.edge(), "POST", "/v1/renew", north)
    behind.desk = fail
    broken = ask(behind.edge(), "POST", "/v1/renew", north)

    assert (refused.status, refused.body) == (403, b"it does not fit")
    assert (broken.status, broken.body) == (500, b"RuntimeError")


def test_a_site_that_comes_with_its_next_certificate_is_taken_note_of(
    workspace: Workspace, behind: Behind
) -> None:
    from confrere_common.enrolment import Renewal
    from confrere_server.membership.roster import renew

    site = enrolled(workspace, "renewing")
    ask(behind.edge(), "GET", "/health", site)
    asked = encode(Renewal(csr=request_for("renewing", new_key()).decode()))
    grant = decode(Grant, renew(workspace, peer_of(site.certificate), asked))
    site.certificate = der(grant.chain)

    ask(behind.edge(), "GET", "/health", site)

    assert [peer.serial for peer in behind.seen] == [peer_of(site.certificate).serial]


def test_a_websocket_is_not_answered(behind: Behind) -> None:
    said: list[Any] = []

    async def nothing(*_: Any) -> Any:
        said.append("asked")

    asyncio.run(behind.edge()({"type": "websocket", "path": "/"}, nothing, nothing))

    assert said == []
