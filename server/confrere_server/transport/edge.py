"""The coordinator's one public port: who may call what, how much and how often.

Every connection is TLS 1.3 with a client certificate, checked before a byte of HTTP is read. What
passes beyond that: an enrolled site, its own node key in hand, to the nine calls of Flower's Fleet
API that a node needs; an unused invitation to ``/v1/enrol`` alone. All else is refused, and
Flower's Control and Runtime APIs, its documentation and its registration have no way in.
"""

import asyncio
import contextlib
import logging
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from confrere_common.errors import CheckpointError, ConfrereError, ExchangeError
from confrere_common.log import reason
from confrere_common.pki.certificate import Peer, peer_of
from confrere_server.membership.roster import Roster

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Desk: TypeAlias = Callable[[Peer, bytes], bytes]
"""Who asks and what for -> what is answered; ExchangeError to refuse."""

CERTIFICATE = "confrere.certificate"
"""Key of a connection's scope under which its client certificate lies (DER)."""

NODE_KEY = b"flwr-public-key"
"""Header in which Flower's node names its key; ``test_edge.py`` watches the name."""

FLEET = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
"""What a node needs; registration is the roster's, and no code is ever handed out."""

ECHO = "/v1/echo"
"""Sends a site's bytes back to it: how ``confrere client doctor`` measures the line."""

BULKY = frozenset({"/v1/fleet/push-object", ECHO})
"""Calls whose body may be as long as the workspace allows: they alone bring arrays."""

BODY = 1024 * 1024
"""Limit of any other call of the Fleet API, in bytes: a message names its arrays, by digest."""

SMALL_BODY = 64 * 1024
"""Limit of a request to enrol or to renew, in bytes."""

DESK_PER_S, DESK_AT_ONCE = 1 / 60, 10.0
"""Requests to enrol or to renew that one name may make: each one leaves a row in the audit log."""

CONNECTIONS = 16
"""Connections of one certificate that are served at once; a daemon has two, and for some seconds as
many again when its line was cut."""

CROWDED = (
    f"this certificate has {CONNECTIONS} connections open: close some, or see who else uses its key"
)

FIRST_REQUEST_S = 30.0
"""Time for the first request of a connection; later ones have uvicorn's keep-alive."""

BODY_WITHIN_S = 60.0
"""Time for the next piece of a request's body."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one site may ask of the server."""

    body_bytes: int
    requests_per_s: float


@dataclass(frozen=True, kw_only=True)
class Noting:
    """What the edge tells of its callers."""

    refused: Callable[[str, str], None]
    """Name and why."""

    saw: Callable[[Peer], None]
    """A site came with its newest certificate, so that the one before it has served."""


@dataclass(kw_only=True)
class Pace:
    """A bucket of requests for each caller, refilled evenly (a token bucket)."""

    per_s: float
    at_once: float | None = None
    """Requests that may come at once; None means those of five seconds."""

    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def allows(self, who: str) -> bool:
        """Take one request of *who*'s; False when there is none left."""
        now = self.clock()
        left, at = self._left.get(who, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_s)
        allowed = left >= 1
        self._left[who] = (left - allowed, now)
        return allowed

    @property
    def burst(self) -> float:
        """Return how many requests may come at once."""
        return max(1.0, 5 * self.per_s) if self.at_once is None else self.at_once


class Certified(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, telling the app whose certificate a connection came with.

    Of one certificate so many connections are served; as many again are told so, and closed; those
    beyond are cut at once.
    HTTP/1.1 has one request at a time on a connection: this is the cap on those as well.
    """

    certificate: bytes | None = None

    def connection_made(self, transport: Any) -> None:
        """Note the peer's certificate once for the connection, and how many there are of it."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self.certificate = certificate = tls.getpeercert(binary_form=True) if tls else None
        # Any: uvicorn's set of its own protocols.
        every: Any = self.connections
        open_ = sum(1 for one in every if one.certificate == certificate)
        if open_ > 2 * CONNECTIONS:
            # Not even told so: what waits for a first request would take the places of all others.
            transport.abort()
            return
        crowded = open_ > CONNECTIONS
        inner = self.app

        async def certified(scope: Scope, receive: Receive, send: Send) -> None:
            if crowded and scope["type"] == "http":
                await _say(send, 429, CROWDED.encode(), close=True)
                return
            await inner({**scope, CERTIFICATE: certificate}, receive, send)

        self.app = certified
        # Uvicorn waits for a first request for ever.
        self.timeout_keep_alive_task = self.loop.call_later(
            FIRST_REQUEST_S, self.timeout_keep_alive_handler
        )


class Edge:
    """The ASGI app of the public port, in front of Flower's.

    Guarantee: without a certificate in the roster nothing behind the edge is called.
    """

    def __init__(
        self,
        fleet: App,
        roster: Callable[[], Roster],
        limits: Limits,
        desks: dict[tuple[str, str], Desk],
        noting: Noting,
    ) -> None:
        """*desks*: (kind of peer, path) -> who answers."""
        self._fleet, self._roster, self._limits, self._desks = fleet, roster, limits, desks
        self._noting = noting
        self._pace = Pace(per_s=limits.requests_per_s)
        self._notes = Pace(per_s=1.0)
        self._desk_pace = Pace(per_s=DESK_PER_S, at_once=DESK_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, answer it, or refuse it."""
        if scope["type"] == "lifespan":
            await self._fleet(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, why, peer = self._judge(scope)
        if peer is None or status != 200:
            self._refused(peer, scope, why)
            await _say(send, status, why.encode())
            return
        if self._roster().replaced_by(peer):
            await asyncio.to_thread(self._noting.saw, peer)
        desk = self._desks.get((peer.kind, scope["path"]))
        if scope["path"] == "/health":
            await _say(send, 200, b"ok")
        elif desk is not None:
            await self._answer(desk, peer, scope, receive, send)
        elif scope["path"] == ECHO:
            with contextlib.suppress(ExchangeError, TimeoutError):
                await _say(send, 200, await _body(_bounded(receive, self._limits.body_bytes)))
        else:
            await self._fleet(scope, _bounded(receive, self._limits.body_bytes), send)

    def _refused(self, peer: Peer | None, scope: Scope, why: str) -> None:
        who = peer.name if peer else "?"
        # Paths come from outside, and as fast as the line allows: neither may fill or forge a log.
        if self._notes.allows(who):
            self._noting.refused(who, f"{scope['path'][:80]!a}: {why}")

    def _judge(self, scope: Scope) -> tuple[int, str, Peer | None]:
        """Return 200, or a status and why not, and who it is."""
        try:
            peer = peer_of(scope.get(CERTIFICATE) or b"")
            roster = self._roster()
        except ExchangeError as fault:
            return 403, str(fault), None
        except (CheckpointError, OSError):
            log.exception("the roster cannot be read: nobody is let in")
            return 503, "the server cannot read its roster; tell the coordinator", None
        if not roster.admits(peer):
            return 403, _not_admitted(peer), peer
        if not self._pace.allows(peer.name):
            return 429, "too many requests", peer
        return self._may_call(scope, peer, roster)

    def _may_call(self, scope: Scope, peer: Peer, roster: Roster) -> tuple[int, str, Peer]:
        path, method = scope["path"], scope["method"]
        if method == "POST" and (peer.kind, path) in self._desks:
            if not self._desk_pace.allows(peer.name):
                return 429, "too many requests to enrol or to renew: wait a minute", peer
            return _fits(scope, SMALL_BODY, peer)
        if peer.kind == "site" and (method, path) == ("GET", "/health"):
            return 200, "", peer
        if peer.kind != "site" or method != "POST" or path not in (*FLEET, ECHO):
            return 404, "there is nothing here", peer
        if path in FLEET and _node_key(scope) != roster.sites[peer.name].node_key:
            return 403, "the node's key is not that of the certificate's site", peer
        limit = self._limits.body_bytes
        return _fits(scope, limit if path in BULKY else min(limit, BODY), peer)

    async def _answer(
        self, desk: Desk, peer: Peer, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            body = await _body(_bounded(receive, SMALL_BODY))
            said = await asyncio.to_thread(desk, peer, body)
        except ConfrereError as fault:
            self._refused(peer, scope, reason(fault))
            await _say(send, 403, reason(fault).encode())
        except Exception as fault:  # the boundary: a foreign body may break anything
            log.exception("%s failed", scope["path"])
            await _say(send, 500, type(fault).__name__.encode())
        else:
            await _say(send, 200, said)


def _not_admitted(peer: Peer) -> str:
    if peer.kind == "site":
        return "this certificate is not (or no longer) in the roster"
    return (
        f"the invitation of site '{peer.name}' was used, replaced or revoked, or has expired: ask "
        f"the coordinator for a new one (confrere server invite {peer.name} --again)"
    )


def _fits(scope: Scope, limit: int, peer: Peer) -> tuple[int, str, Peer]:
    said = dict(scope["headers"]).get(b"content-length", b"")
    if not said.isdigit():
        return 411, "a request must say its length", peer
    if int(said) > limit:
        return 413, f"{int(said)} bytes are more than the limit of {limit}", peer
    return 200, "", peer


def _node_key(scope: Scope) -> bytes:
    try:
        return b64decode(dict(scope["headers"]).get(NODE_KEY, b""), validate=True)
    except ValueError:
        return b""


def _bounded(receive: Receive, limit: int) -> Receive:
    """Return *receive*, cutting off a body that is longer than it said, or stalls."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        async with asyncio.timeout(BODY_WITHIN_S):
            message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= limit else {"type": "http.disconnect"}

    return bounded


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ExchangeError("the request was cut off")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _say(send: Send, status: int, body: bytes, *, close: bool = False) -> None:
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % len(body)),
    ]
    if close or status in (411, 413):  # what follows is not read, however long it is
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
