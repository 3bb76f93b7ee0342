"""The site's line to the coordinator: the client's one file on Flower's inner parts.

Flower's own SuperNode holds every message and reply in memory, hands them to another process
through an open port of the machine, polls every 3 s, and cannot come back for a minute after it
was killed. The daemon speaks the same protocol through Flower's own client instead: one process,
nothing listening, and each array in memory once.

Pinned to flwr 1.41. When the pin moves, ``tests/client/daemon/test_fleet.py`` says what to look at.
"""

import os
import random
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, TIMESTAMP_HEADER
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

from confrere_common.arrays import gathered, parts
from confrere_common.errors import ExchangeError
from confrere_common.heap import give_back_what_is_freed

TRIES = 4
"""How often one request is sent before the line counts as cut; the caller starts over."""

GONE = frozenset({400, 401, 403, 404, 500})
"""Answers after which a node has to present itself anew: the server may have been restarted."""

T = TypeVar("T")


class LineCut(Exception):  # noqa: N818  (a line is cut, nobody erred)
    """The coordinator cannot be reached just now, or no longer knows this node."""


class RunOver(Exception):  # noqa: N818  (runs end)
    """The coordinator has closed the Flower run that a message belonged to."""


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message that waits: its envelope, and the names of the objects it is made of."""

    message: Message
    tree: ObjectTree

    @property
    def run(self) -> int:
        """Return the id of the Flower run."""
        return int(self.message.metadata.run_id)

    @property
    def group(self) -> str:
        """Return the coordinator's own id of the run; empty from one that does not tell it."""
        return str(self.message.metadata.group_id)

    @property
    def kind(self) -> str:
        """Return Flower's type of the message: query or train."""
        return str(self.message.metadata.message_type)


class Line:
    """One node's conversation with the coordinator; every method may raise LineCut."""

    def __init__(self, address: str, tls: ssl.SSLContext, key: ec.EllipticCurvePrivateKey) -> None:
        give_back_what_is_freed()
        self._key = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient(
            f"https://{address}",
            verify=tls,
            interceptors=[_Signed(key, self._now)],
        )
        # Flower's client would carry an update to wherever a server points, and without TLS too.
        self._client._client.follow_redirects = False
        self._node: Node | None = None
        self._ahead_s = 0.0

    def __enter__(self) -> Self:
        """Return the line itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say good-bye if that is possible."""
        self.close()

    def connect(self, known: int | None = None) -> int:
        """Present the node; return its id, to be given as *known* after a crash.

        A node that was killed still counts as present for a minute and may not come back; it
        therefore first takes leave under the id that it had.
        """
        request = ActivateNodeRequest(
            public_key=self._key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        self._ahead_s = self._server_clock_ahead()
        if known is not None:
            self._node = Node(node_id=known)
            self._leave()
        with _line():
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        return int(self._node.node_id)

    def beat(self) -> None:
        """Say that the node is still there."""
        request = SendNodeHeartbeatRequest(
            node=self._here, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        with _line():
            if not self._client.SendNodeHeartbeat(request).success:
                raise LineCut("the coordinator does not know this node")

    @contextmanager
    def beating(self, every_s: float) -> Iterator[None]:
        """Beat now, and beside all else: a large model takes minutes to come and to go."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(every_s):
                with suppress(LineCut, RunOver):  # whoever asks for work notices as well
                    self.beat()

        self.beat()
        beating = threading.Thread(target=beat, name="beat", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()

    def poll(self) -> Incoming | None:
        """Return the next message's envelope, if one waits."""
        # Once only: a message whose envelope was lost on its way counts as delivered and comes no
        # second time. The line is then cut, and the coordinator asks the node anew that returns.
        with _line():
            answer = self._client.PullMessages(PullMessagesRequest(node=self._here))
            if not answer.messages_list:
                return None
            message = message_from_proto(answer.messages_list[0])
            return Incoming(message=message, tree=answer.message_object_trees[0])

    def bundle(self, run: int) -> str:
        """Return the digest of the app bundle that a Flower run asks for; it is never fetched."""
        request = GetRunRequest(node=self._here, run_id=run)
        return str(_patiently(lambda: self._client.GetRun(request)).run.fab_hash)

    def fetch(self, incoming: Incoming) -> RecordDict:
        """Return the content of a message, object by object; ExchangeError if it is malformed."""
        name = incoming.message.metadata.message_id
        try:
            remote = _Remote(self._client, self._here, incoming.run)
            found = gathered(name, remote.__getitem__)
        except (LineCut, RunOver, ExchangeError):
            raise
        except Exception as fault:  # foreign bytes make Flower's reader fail in any way
            raise ExchangeError(f"a message cannot be read: {type(fault).__name__}") from None
        request = ConfirmMessageReceivedRequest(
            node=self._here, run_id=incoming.run, message_object_id=name
        )
        _patiently(lambda: self._client.ConfirmMessageReceived(request))
        if not isinstance(found, Message) or not found.has_content():
            raise ExchangeError("a message holds no records")
        return found.content

    def reply(self, incoming: Incoming, content: RecordDict) -> int:
        """Send *content* as the answer to a message; return the bytes sent."""
        reply = make_message(self._envelope(incoming), content)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            request = PushMessagesRequest(
                node=self._here,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
            said = _patiently(lambda: self._client.PushMessages(request))
            wanted = set(said.objects_to_push)
            if not wanted:
                raise LineCut("the coordinator no longer waits for this answer")
            sent: int = request.ByteSize()
            for name, part in parts(reply):
                if name in wanted:
                    sent += self._push(incoming.run, said.session_id, name, part.deflate())
        return sent

    def close(self) -> None:
        """Take leave, so that the coordinator need not wait; silent when it cannot be reached."""
        if self._node is not None:
            self._leave()
        self._client.close()

    @property
    def _here(self) -> Node:
        if self._node is None:
            raise LineCut("not connected")
        return self._node

    @property
    def clock_ahead_s(self) -> float:
        """Return by how many seconds the coordinator's clock is ahead of this machine's."""
        return self._ahead_s

    def _now(self) -> datetime:
        # The coordinator refuses a signature more than some seconds off its own clock, and a
        # hospital's clock may be a day off: what counts is the coordinator's, told over TLS.
        return datetime.now(UTC) + timedelta(seconds=self._ahead_s)

    def _server_clock_ahead(self) -> float:
        with _line():
            said = self._client._client.get(f"{self._client._base_url}/health").headers["date"]
            return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()

    def _envelope(self, incoming: Incoming) -> Metadata:
        asked = incoming.message.metadata
        now = self._now().timestamp()
        return Metadata(
            run_id=asked.run_id,
            message_id="",
            src_node_id=self._here.node_id,
            dst_node_id=asked.src_node_id,
            reply_to_message_id=asked.message_id,
            group_id=asked.group_id,
            created_at=now,
            ttl=asked.created_at + asked.ttl - now,
            message_type=asked.message_type,
        )

    def _push(self, run: int, session: str, name: str, content: bytes) -> int:
        request = PushObjectRequest(
            node=self._here, run_id=run, object_id=name, object_content=content, session_id=session
        )
        if not _patiently(lambda: self._client.PushObject(request)).stored:
            raise LineCut("the coordinator no longer waits for this answer")
        return len(content)

    def _leave(self) -> None:
        try:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._here.node_id))
        except Exception:  # whatever it was: nobody is left to say good-bye to
            self._node = None


class _Signed:
    """Signs each request's time with the node's key, as Flower's server expects it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, now: Callable[[], datetime]) -> None:
        self._key, self._now = key, now
        self._public = b64encode(public_key_to_bytes(key.public_key())).decode()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the three headers and hand the request on."""
        stamp = self._now().isoformat()
        signature = b64encode(sign_message(self._key, stamp.encode("ascii"))).decode()
        context.request.headers.update(
            {
                FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
                TIMESTAMP_HEADER: stamp,
                FLEET_HTTP_SIGNATURE_HEADER: signature,
            }
        )
        return call_next(context)


class _Remote(dict[str, bytes]):
    """Object contents, fetched when they are needed, checked against their names, not kept."""

    def __init__(self, client: FleetHttpClient, node: Node, run: int) -> None:
        super().__init__()
        self._client, self._node, self._run = client, node, run

    def __getitem__(self, name: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=self._run, object_id=name)
        found = _patiently(lambda: self._client.PullObject(request))
        if not found.object_found or not found.object_available:
            raise LineCut("a part of the message is no longer at the coordinator")
        if get_object_id(found.object_content) != name:
            raise ExchangeError("a part of a message is not what its name says")
        self.clear()
        self[name] = found.object_content
        return found.object_content

    def __delitem__(self, name: str) -> None:
        """Forget a content that was read."""
        self.pop(name, None)


@contextmanager
def _line() -> Iterator[None]:
    """Turn what httpx and Flower raise into LineCut or RunOver."""
    try:
        yield
    except (LineCut, RunOver, ExchangeError):
        raise
    except httpx.HTTPStatusError as fault:
        status = fault.response.status_code
        # "The current run status does not allow": a run that a server started anew has never heard
        # of is forbidden too, and no reason to give up what is being trained.
        if status == httpx.codes.FORBIDDEN and "run status" in fault.response.text.lower():
            raise RunOver from None
        raise LineCut(f"the coordinator answered {status}") from None
    except Exception as fault:  # what a server answers may break Flower's reader in any way
        raise LineCut(type(fault).__name__) from None


def _patiently(send: Callable[[], T]) -> T:
    """Return what *send* returns, trying again after a fault of the network, ever later."""
    for number in range(TRIES):
        try:
            with _line():
                return send()
        except LineCut as fault:
            if number == TRIES - 1 or _final(str(fault)):
                raise
        time.sleep(random.uniform(0.1, 0.5) * 2**number)  # noqa: S311  (jitter, no secret)
    raise AssertionError("unreachable")


def _final(text: str) -> bool:
    return any(text.endswith(str(status)) for status in GONE)
