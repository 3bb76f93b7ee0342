"""Flower's SuperLink inside the coordinator's process: the server's one file on its inner parts.

Flower keeps runs, nodes and messages in memory here, and objects in files: nothing of it has to
outlive the process, since the roster, the queue and the checkpoints are the coordinator's own
files and Flower's state is made anew from them at every start. Flower's Control and Runtime APIs
are never served: what the coordinator does, it does by calls in this process.

Pinned to flwr 1.41. When the pin moves, ``tests/server/transport/test_superlink.py`` says what to
look at.
"""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from fastapi import FastAPI, Request
from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers

from confrere_common.arrays import MOST_BYTES, gathered, parts
from confrere_common.errors import ExchangeError
from confrere_common.heap import give_back_what_is_freed
from confrere_server.transport.objects import ObjectFiles

IDLE = frozenset(
    {
        "ControlSensitiveResponseMiddleware",
        "ControlAuthenticationMiddleware",
        "ControlLicenseMiddleware",
        "ControlEventLogMiddleware",
        "RuntimeTracingMiddleware",
        "FleetEventLogMiddleware",
    }
)
"""Layers of Flower's app that do nothing for a node's calls, and took half of a request's time."""

SWEEP_EVERY = 16 << 20
"""Bytes that pass between two sweeps."""

SEND_AT_ONCE = 128 << 10
"""Bytes of an answer that are handed to the line at once."""

TTL_S = 7 * 24 * 3600.0
"""How long Flower keeps a message: the round's own deadline ends it long before."""


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Whether a node is there, and since when without a break."""

    online: bool
    since: str


class SuperLink:
    """Nodes, messages and objects of one coordinator, and the ASGI app that nodes speak to."""

    def __init__(self, objects: Path) -> None:
        give_back_what_is_freed()
        self._store = ObjectFiles(objects)
        factory = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        factory.store_instance = self._store
        link = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), factory)
        # Any: the public interface of the state lacks the status that stands in for a ServerApp.
        self._state: Any = link.state()
        self._own: set[str] = set()
        _take_orders_from(self._own, self._state)
        self._lock = threading.Lock()
        self.app = _app(link)

    def register(self, node_key: bytes, name: str) -> int:
        """Let the holder of *node_key* speak as node *name*; return its id, the same when known."""
        with self._lock:
            known: int | None = self._state.get_node_id_by_public_key(node_key)
            if known is not None:
                return known
            made: int = self._state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, node_key, 0, name=name
            )
            return made

    def presence(self, node: int) -> Presence:
        """Return whether *node* has been heard lately."""
        found = self._state.get_node_info(node_ids=[node])
        if not found:
            return Presence(online=False, since="")
        return Presence(online=found[0].status == "online", since=found[0].last_activated_at or "")

    def begin(self, bundle: bytes) -> int:
        """Open a Flower run of *bundle* and return its id; it runs until ``end``."""
        digest = self._state.store_fab(Fab(hash_str="", content=bundle, verifications={}))
        run: int = self._state.create_run(
            "confrere/confrere", "0", digest, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID,
            TaskType.SERVER_APP,
        )  # fmt: skip
        task = self._state.get_run_info(run_ids=[run])[0].primary_task_id
        # The rounds run in this very process: no ServerApp claims the task, so no token expires.
        self._state.task_store[task].status.status = "running"
        return run

    def end(self, run: int) -> None:
        """Close a Flower run: nodes are told that it no longer runs, its objects are removed."""
        task = self._state.get_run_info(run_ids=[run])[0].primary_task_id
        self._state.finish_task(task, SubStatus.COMPLETED, "")
        self._state.delete_sessions_in_run(run)
        self._state.delete_messages(self._state.get_message_ids_from_run_id(run))
        self._store.delete_objects_in_run(run)

    def push(
        self, run: int, nodes: Iterable[int], content: RecordDict, *, kind: str, group: str
    ) -> dict[int, str]:
        """Send *content* to *nodes*, stored once for all; return node -> the message's id.

        A node that is unknown has no id. Memory beside *content* is one array.
        """
        sent: dict[int, str] = {}
        with no_object_id_recompute():
            for node in nodes:
                message = make_message(_envelope(run, node, kind, group), content)
                name = message.object_id
                message.metadata.__dict__["_message_id"] = name
                if self._store_message(run, message):
                    sent[node] = name
        return sent

    def _store_message(self, run: int, message: Message) -> bool:
        session, name = self._state.start_session(run), message.metadata.message_id
        tree = get_object_tree(message)
        # First what it is made of: a node that asks just now must find all that it is told of.
        missing = set(self._store.preregister(run, tree))
        for part_name, part in parts(message):
            if part_name in missing:
                self._store.put(part_name, part.deflate())
        self._own.add(name)
        try:
            stored, _ = self._state.store_message_and_object_tree(
                remove_content_from_message(message), tree, session
            )
        finally:
            self._own.discard(name)
        if not stored:
            self._store.delete(name)
        return bool(stored)

    def arrived(self, asked: str) -> bool:
        """Return whether the answer to message *asked* lies here whole."""
        reply = self._reply(asked)
        return reply is not None and self._store.whole(reply.metadata.message_id)

    def take(self, asked: str, at_most: int = MOST_BYTES) -> RecordDict:
        """Return the answer to message *asked* and remove both; packed tensors stay in a file.

        ExchangeError when Flower's envelope holds something else than records, or more than
        *at_most* bytes of them.
        """
        reply = self._reply(asked)
        if reply is None:
            raise ExchangeError("there is no answer to that message")
        try:
            if reply.has_error():
                raise ExchangeError("its app failed; see the site's own log")
            name = reply.metadata.message_id
            get = _Lazy(self._store).__getitem__
            message = gathered(name, get, at_most, self._store.spare)
            if not isinstance(message, Message) or not message.has_content():
                raise ExchangeError("its answer holds no records")
            return message.content
        except ExchangeError:
            raise
        except OSError as fault:
            why = f"the server could not lay its answer down: {fault.strerror}"
            raise ExchangeError(why) from None
        except Exception as fault:  # foreign bytes make Flower's reader fail in any way
            raise ExchangeError(f"its answer cannot be read: {type(fault).__name__}") from None
        finally:
            self.forget([asked])

    def forget(self, asked: Iterable[str]) -> None:
        """Remove messages, their answers and all their objects."""
        for name in asked:
            reply = self._reply(name)
            self._state.delete_messages({name})
            self._store.delete(name)
            if reply is not None:
                self._store.delete(reply.metadata.message_id)

    def _reply(self, asked: str) -> Message | None:
        with self._state.lock:
            given = self._state.message_ins_id_to_message_res_id.get(asked)
            found: Message | None = self._state.message_res_store.get(given)
            return found


class _Short:
    """A short way for the three calls that rounds are made of; all else goes through Flower's app.

    Flower's layers, each a task of its own, took most of a request's time. Flower's own functions
    authenticate and answer here too; what they do not plainly answer, Flower's app is asked again.
    """

    def __init__(self, app: Any, flower: FastAPI, state: Any) -> None:
        self._app, self._flower, self._state = app, flower, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) not in SHORT:
            await self._app(scope, receive, send)
            return
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # it was cut off
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        del parts, message
        said = await asyncio.to_thread(self._answer, scope, body)
        if said is None:
            await self._app(scope, _again(body, receive), send)
            return
        headers = [
            (b"content-type", PROTOBUF_MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(said)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # Piece by piece, each when the one before it is on its way: what waits for a slow line lies
        # in memory several times, plain and encrypted.
        left = memoryview(said)
        while len(left) > SEND_AT_ONCE:
            part, left = left[:SEND_AT_ONCE], left[SEND_AT_ONCE:]
            await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
        await send({"type": "http.response.body", "body": bytes(left)})

    def _answer(self, scope: Any, body: bytes) -> bytes | None:
        request = Request({**scope, "app": self._flower, "state": {}})
        if request.headers.get("content-type") != PROTOBUF_MEDIA_TYPE:
            return None
        kind, answer = SHORT[scope["method"], scope["path"]]
        try:
            asked = kind.FromString(body)
            request.state.protobuf_request = asked
            authenticate_node(request)
            said: bytes = answer(asked, self._state).SerializeToString()
        except Exception:  # Flower's app finds the same and says it as it should be said
            return None
        return said


def _again(body: bytes, receive: Any) -> Any:
    """Return a *receive* that gives *body* once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


SHORT: Mapping[tuple[str, str], tuple[Any, Callable[[Any, Any], Any]]] = {
    ("POST", "/v1/fleet/push-object"): (PushObjectRequest, fleet_handlers.push_object),
    ("POST", "/v1/fleet/pull-object"): (PullObjectRequest, fleet_handlers.pull_object),
    ("POST", "/v1/fleet/pull-messages"): (
        PullMessagesRequest,
        lambda asked, state: fleet_handlers.pull_messages(asked, state, state.object_store),
    ),
}
"""What comes hundreds of times in a round -> its message, and Flower's function for it."""


class _Swept:
    """Flower's app, and behind it a broom.

    Starlette's middleware leaves every request, its body included, in a cycle of tracebacks, where
    it would lie until the garbage collector comes by: hundreds of megabytes.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._passed = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through."""

        async def received() -> Any:
            message = await receive()
            self._passed += len(message.get("body", b""))
            return message

        async def sent(message: Any) -> None:
            self._passed += len(message.get("body", b""))
            await send(message)

        await self._app(scope, received, sent)
        if self._passed >= SWEEP_EVERY:
            self._passed = 0
            gc.collect()


class _Lazy(dict[str, bytes]):
    """Object contents, read from the store when they are needed and not kept."""

    def __init__(self, store: ObjectFiles) -> None:
        super().__init__()
        self._store = store

    def __getitem__(self, name: str) -> bytes:
        return self._store.get(name) or b""

    def __delitem__(self, name: str) -> None:
        """Keep nothing, so remove nothing."""


def _take_orders_from(own: set[str], state: Any) -> None:
    """Let *state* store no question but those in *own*.

    Flower takes one from any node that says it were the server: a site could so give orders to
    another one, and fill the store with what nobody waits for.
    """
    store = state.store_message_ins

    def guarded(message: Message) -> str | None:
        stored: str | None = store(message) if message.metadata.message_id in own else None
        return stored

    state.store_message_ins = guarded


def _envelope(run: int, node: int, kind: str, group: str) -> Metadata:
    return Metadata(
        run_id=run,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=group,
        created_at=time.time(),
        ttl=TTL_S,
        message_type=kind,
    )


def _name(layer: Any) -> str:
    return str(layer.__name__)


def _app(link: LinkStateFactory) -> FastAPI:
    """Return Flower's app on our state; nodes register through the roster alone."""
    app = create_app()
    app.user_middleware = [m for m in app.user_middleware if _name(m.cls) not in IDLE]
    app.add_middleware(_Swept)
    app.add_middleware(_Short, flower=app, state=link.state())
    app.state.linkstate_factory = link
    app.state.runtime_state_factory = link
    app.state.enable_supernode_auth = True
    return app
