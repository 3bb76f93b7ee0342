"""The line over Flower's fleet client: a contract with its inner parts, pinned to flwr 1.41."""

import contextlib
import importlib.metadata
import inspect
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from wired import MIB, InProcess, Wire, model, said

from confrere_client.daemon import fleet
from confrere_client.daemon.fleet import Incoming, Line, LineCut, RunOver
from confrere_common.code import bundle_digest
from confrere_common.errors import ExchangeError
from confrere_common.pki.keys import new_key

ADVICE = (
    "flwr's pin has moved, or what lies under it. Read client/confrere_client/daemon/fleet.py "
    "beside the new flwr's supernode/fleet_http_client.py, supernode/node_auth_http_interceptor.py "
    "and superlink/routers/fleet/node_auth.py; run this file, "
    "tests/server/transport/test_superlink.py and tests/deploy/test_attackers.py; then move the "
    "pin in pyproject.toml and the version here: "
)

KEY = new_key()
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path / "objects")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet.time, "sleep", lambda _: None)


def line_through(answer: Callable[[httpx.Request], httpx.Response]) -> Line:
    line = Line("server", TLS, KEY)
    line._client._client.close()
    follow = line._client._client.follow_redirects
    transport = httpx.MockTransport(answer)
    line._client._client = httpx.Client(transport=transport, follow_redirects=follow)
    return line


def dated(content: bytes = b"", status: int = 200, **headers: str) -> httpx.Response:
    now = format_datetime(datetime.now(UTC), usegmt=True)
    return httpx.Response(status, content=content, headers={"date": now, **headers})


def polled(line: Line) -> Incoming:
    found = line.poll()
    assert found is not None
    return found


# -------------------------------------------------------------------------------- the contract


def test_flower_is_the_version_that_this_was_written_for() -> None:
    version = importlib.metadata.version("flwr")

    assert version.split(".")[:2] == ["1", "41"], ADVICE + version


def test_the_client_is_made_as_it_was() -> None:
    names = set(inspect.signature(fleet.FleetHttpClient.__init__).parameters)

    assert {"base_url", "verify", "interceptors", "timeout"} <= names, f"{ADVICE}{names}"
    with line_through(lambda _: dated()) as line:
        assert isinstance(line._client._client, httpx.Client), ADVICE
        assert line._client._base_url == "https://server", ADVICE


def test_flower_calls_nobody_home() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_a_message_comes_whole_and_its_answer_goes_back(wire: Wire) -> None:
    node, line = wire.node()
    sent = wire.ask(node, content=model(2))

    incoming = polled(line)
    records = line.fetch(incoming)
    size = line.reply(incoming, model(1, seed=1))

    assert records == model(2), ADVICE
    assert wire.link.take(sent[node]) == model(1, seed=1), ADVICE
    assert MIB < size < 1.1 * MIB
    assert line.poll() is None


def test_a_run_names_its_bundle_and_the_bundle_is_never_fetched(wire: Wire) -> None:
    _, line = wire.node()

    assert line.bundle(wire.run) == bundle_digest(), ADVICE
    source = inspect.getsource(fleet)
    assert "GetFab" not in source


def test_a_message_that_was_fetched_is_no_longer_at_the_server(wire: Wire) -> None:
    node, line = wire.node()
    wire.ask(node, content=model(1))
    incoming = polled(line)
    line.fetch(incoming)

    with pytest.raises(LineCut):
        line.fetch(incoming)


def test_memory_for_a_message_is_the_message(wire: Wire) -> None:
    node, line = wire.node()
    wire.ask(node, content=model(3))
    contents: list[int] = []

    class Watched(fleet._Remote):
        def __getitem__(self, name: str) -> bytes:
            found = super().__getitem__(name)
            contents.append(len(self))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "_Remote", Watched)
        line.fetch(polled(line))

    assert max(contents) == 1, "more than one object's bytes were held at once"


def test_a_node_that_was_killed_comes_back_at_once_under_its_id(wire: Wire) -> None:
    node, killed = wire.node()
    with pytest.raises(LineCut):
        killed.connect()  # it still counts as present

    assert killed.connect(known=node) == node, ADVICE


def test_a_clock_that_is_a_day_off_is_no_hindrance(wire: Wire) -> None:
    _, line = wire.node(connect=False)
    inner = line._client._client._transport
    assert isinstance(inner, InProcess)
    theirs = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)

    class Ahead(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path != "/health":
                stamp = datetime.fromisoformat(request.headers["flwr-timestamp"])
                assert abs(stamp - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)
                return dated(ActivateNodeResponse(node_id=5).SerializeToString())
            return httpx.Response(200, headers={"date": theirs})

    line._client._client = httpx.Client(transport=Ahead())

    assert line.connect() == 5, ADVICE
    assert line.clock_ahead_s == pytest.approx(86400, abs=60)


def test_every_request_is_signed_with_the_nodes_key(wire: Wire) -> None:
    _, line = wire.node()
    seen: list[httpx.Headers] = []
    inner = line._client._client._transport

    class Seeing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request.headers)
            return inner.handle_request(request)

    line._client._client = httpx.Client(transport=Seeing())
    line.beat()

    assert {"flwr-public-key", "flwr-timestamp", "flwr-signature"} <= set(seen[0]), ADVICE


def test_an_answer_that_nobody_waits_for_is_a_cut_line(wire: Wire) -> None:
    node, line = wire.node()
    sent = wire.ask(node)
    incoming = polled(line)
    line.fetch(incoming)
    wire.link.forget(sent.values())

    with pytest.raises(LineCut, match="no longer waits"):
        line.reply(incoming, said("late"))


def test_an_answer_to_a_run_that_is_over_says_so(wire: Wire) -> None:
    node, line = wire.node()
    wire.ask(node)
    incoming = polled(line)
    wire.link.end(wire.run)

    with pytest.raises(RunOver):
        line.reply(incoming, said("late"))


# ----------------------------------------------------------------------- servers that mean harm


def calls(line: Line, incoming: Incoming) -> dict[str, Callable[[], Any]]:
    return {
        "connect": line.connect,
        "come back": lambda: line.connect(known=7),
        "beat": line.beat,
        "poll": line.poll,
        "bundle": lambda: line.bundle(1),
        "fetch": lambda: line.fetch(incoming),
        "reply": lambda: line.reply(incoming, said("x")),
        "close": line.close,
    }


def some_message() -> Incoming:
    proto = ProtoMessage()
    proto.metadata.run_id, proto.metadata.message_id = 1, "0" * 64
    proto.metadata.src_node_id, proto.metadata.dst_node_id = 1, 5
    proto.metadata.ttl, proto.metadata.created_at = 100.0, 1e9
    proto.metadata.message_type = "train"
    proto.content.SetInParent()
    return Incoming(message=fleet.message_from_proto(proto), tree=fleet.ObjectTree())


STRANGE_DATES = (
    "",
    "yesterday",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 2001 00:00:00 -0000",
)


@settings(deadline=None, max_examples=40)
@given(
    status=st.sampled_from([200, 200, 200, 204, 301, 307, 400, 401, 403, 404, 418, 429, 500, 503]),
    content=st.one_of(
        st.binary(max_size=60),
        st.just(PullMessagesResponse(messages_list=[ProtoMessage()]).SerializeToString()),
    ),
    date=st.sampled_from([*STRANGE_DATES, "now"]),
    call=st.sampled_from(
        ["connect", "come back", "beat", "poll", "bundle", "fetch", "reply", "close"]
    ),
)
def test_whatever_a_server_answers_the_line_is_cut_and_nothing_else(
    status: int, content: bytes, date: str, call: str
) -> None:
    headers = {"location": "http://127.0.0.1:1/"} | ({} if date == "now" else {"date": date})
    line = line_through(lambda _: dated(content, status, **headers))
    line._node = fleet.Node(node_id=5)

    with contextlib.suppress(LineCut, RunOver, ExchangeError):
        calls(line, some_message())[call]()


def test_a_server_that_answers_without_a_date_is_a_cut_line() -> None:
    line = line_through(lambda _: httpx.Response(200))

    with pytest.raises(LineCut):
        line.connect()


def test_a_redirection_is_not_followed() -> None:
    asked: list[str] = []

    def away(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return dated(status=307, location="http://inside.example/steal")

    line = line_through(away)
    line._node = fleet.Node(node_id=5)

    with pytest.raises(LineCut, match="307"):
        line.reply(some_message(), said("an update"))
    assert all(url.startswith("https://server/") for url in asked)


def test_a_part_that_is_not_what_its_name_says_is_refused(wire: Wire) -> None:
    node, line = wire.node()
    wire.ask(node, content=model(1))
    incoming = polled(line)
    inner = line._client._client._transport

    class Forging(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = inner.handle_request(request)
            if request.url.path.endswith("pull-object"):
                return dated(answer.read()[:-1] + b"!")
            return answer

    line._client._client = httpx.Client(transport=Forging())

    with pytest.raises((ExchangeError, LineCut)):
        line.fetch(incoming)


def test_a_server_that_is_away_is_a_cut_line_after_a_few_tries() -> None:
    tries: list[int] = []

    def away(_: httpx.Request) -> httpx.Response:
        tries.append(1)
        raise httpx.ConnectError("nobody there")

    line = line_through(away)
    line._node = fleet.Node(node_id=5)

    with pytest.raises(LineCut):
        line.bundle(1)
    assert len(tries) == fleet.TRIES


def test_without_a_connection_nothing_is_asked() -> None:
    line = line_through(lambda _: pytest.fail("it asked"))

    for call in (line.beat, line.poll, lambda: line.bundle(1)):
        with pytest.raises(LineCut):
            call()
