"""Flower's SuperLink as we use it: a contract with its inner parts, pinned to flwr 1.41."""

import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from wired import MIB, Wire, model, said

from confrere_client.daemon.fleet import Incoming, Line, RunOver
from confrere_common.errors import ExchangeError
from confrere_server.superlink import SuperLink

ADVICE = (
    "flwr's pin has moved, or what lies under it. Read server/confrere_server/{superlink,objects}"
    ".py beside the new flwr's server/superlink/linkstate, superlink/servicer/fleet and supercore/"
    "{inflatable,object_store}; run tests/server/test_superlink.py, tests/client/daemon/"
    "test_fleet.py and tests/deploy/test_attackers.py, which hold all that is relied on; then move "
    "the pin in pyproject.toml and the version here: "
)

USED = {
    "flwr.superlink.main:create_app": ("config", "superlink_lifespan_class"),
    "flwr.server.superlink.linkstate:LinkStateFactory": (
        "database", "federation_manager", "objectstore_factory",
    ),
    "flwr.server.superlink.linkstate:LinkState.create_node": (
        "self", "owner_aid", "owner_name", "public_key", "heartbeat_interval",
    ),
    "flwr.server.superlink.linkstate:LinkState.store_message_and_object_tree": (
        "self", "message", "object_tree", "session_id",
    ),
    "flwr.server.superlink.linkstate:LinkState.get_message_ids_from_run_id": ("self", "run_id"),
    "flwr.server.superlink.linkstate:LinkState.delete_messages": ("self", "message_ins_ids"),
    "flwr.server.superlink.linkstate:LinkState.start_session": ("self", "run_id"),
    "flwr.server.superlink.linkstate:LinkState.store_object": (
        "self", "run_id", "session_id", "object_id", "object_content",
    ),
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": (
        "object_id", "object_contents", "keep_object_contents", "objects",
    ),
    "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore.put": (
        "self", "object_id", "object_content",
    ),
    "flwr.app.message.message:make_message": ("metadata", "content", "error"),
}  # fmt: skip
"""Inner parts of Flower -> the first parameters by which they are called here."""


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    yield Wire(tmp_path / "objects")


def test_flower_is_the_version_that_this_was_written_for() -> None:
    version = importlib.metadata.version("flwr")

    assert version.split(".")[:2] == ["1", "41"], ADVICE + version


@pytest.mark.parametrize("part", USED)
def test_an_inner_part_is_as_it_was(part: str) -> None:
    module, _, path = part.partition(":")

    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name, None)
        assert found is not None, f"{ADVICE}{part} is gone"

    names = tuple(inspect.signature(found).parameters)
    missing = [name for name in USED[part] if name not in names]
    assert not missing, f"{ADVICE}{part} now takes {names}"


def test_flower_calls_nobody_home() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_its_app_has_the_calls_that_a_node_needs(wire: Wire) -> None:
    from confrere_server.edge import FLEET

    paths = set(wire.link.app.openapi()["paths"])

    assert paths >= FLEET, f"{ADVICE}{sorted(FLEET - paths)} are gone"


def test_a_question_goes_out_and_its_answer_comes_back(wire: Wire) -> None:
    node, line = wire.node()
    sent = wire.ask(node, content=said("what?"))

    incoming = line.poll()

    assert incoming is not None, ADVICE
    assert (incoming.run, incoming.kind, incoming.group) == (wire.run, "train", "g")
    assert line.fetch(incoming)["text"]["said"] == "what?"  # type: ignore[index]
    assert not wire.link.arrived(sent[node])
    line.reply(incoming, said("that"))
    assert wire.link.arrived(sent[node]), ADVICE
    assert wire.link.take(sent[node])["text"]["said"] == "that"  # type: ignore[index]
    with pytest.raises(ExchangeError, match="no answer"):
        wire.link.take(sent[node])


def test_a_node_is_the_same_whenever_it_is_registered(wire: Wire) -> None:
    first = wire.link.register(b"key", "north")

    assert wire.link.register(b"key", "north") == first
    assert wire.link.register(b"other", "south") != first


def test_a_node_is_there_from_its_first_word_to_its_last(wire: Wire) -> None:
    node, line = wire.node(connect=False)
    before = wire.link.presence(node)
    line.connect()
    there = wire.link.presence(node)
    line.connect(known=node)
    again = wire.link.presence(node)
    line.close()

    assert (before.online, before.since) == (False, "")
    assert there.online, ADVICE
    assert again.online
    assert again.since > there.since, ADVICE
    assert not wire.link.presence(node).online
    assert not wire.link.presence(12345).online


def test_a_node_that_is_not_known_is_sent_nothing(wire: Wire) -> None:
    node, _ = wire.node()

    assert wire.ask(12345, node).keys() == {node}


def test_what_goes_to_many_lies_there_once(wire: Wire) -> None:
    nodes = [wire.node()[0] for _ in range(3)]

    wire.ask(*nodes, content=model(2))

    assert len(wire.files) == 2, ADVICE


def test_nothing_is_left_after_a_run_whatever_was_under_way(wire: Wire) -> None:
    (one, answering), (two, silent), (three, _) = wire.node(), wire.node(), wire.node()
    sent = wire.ask(one, two, three, content=model(2))
    for line in (answering, silent):
        incoming = line.poll()
        assert incoming is not None
        line.fetch(incoming)
        if line is answering:
            line.reply(incoming, model(2, seed=1))
            wire.link.take(sent[one])

    wire.link.end(wire.run)

    assert wire.files == []
    assert len(wire.link._store) == 0, ADVICE
    assert wire.link._state.message_ins_store == {}


def test_a_question_that_is_forgotten_leaves_nothing_behind(wire: Wire) -> None:
    node, line = wire.node()
    sent = wire.ask(node, content=model(1))
    incoming = line.poll()
    assert incoming is not None
    line.reply(incoming, model(1, seed=1))

    wire.link.forget(sent.values())

    assert wire.files == []
    assert len(wire.link._store) == 0


def test_what_an_earlier_server_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "left").write_bytes(b"x")

    SuperLink(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_nodes_learn_that_a_run_is_over(wire: Wire) -> None:
    _, line = wire.node()
    assert line.bundle(wire.run)

    wire.link.end(wire.run)

    with pytest.raises(RunOver):
        line.bundle(wire.run)


def test_memory_holds_one_model_however_many_sites(wire: Wire) -> None:
    mib = 40
    lines = [wire.node() for _ in range(2)]
    content = model(mib)
    with traced() as pushing:
        sent = wire.ask(*(node for node, _ in lines), content=content)
    del content
    for number, (_, line) in enumerate(lines):
        incoming = line.poll()
        assert incoming is not None
        line.reply(incoming, model(mib, seed=number + 1))
    waiting = sum(len(entry.content) for entry in wire.link._store.store.values())
    with traced() as taking:
        for node, _ in lines:
            found = wire.link.take(sent[node])
            assert "weights" in found
            del found

    # Of what is pushed, one array at a time is framed and written beside the content itself.
    assert pushing[0] < 8 * MIB, f"pushing took {pushing[0] / MIB:.1f} MiB beside the model"
    assert waiting < MIB, f"answers that wait take {waiting / MIB:.1f} MiB"
    assert taking[0] < (mib + 8) * MIB, f"taking took {taking[0] / MIB:.1f} MiB"


@contextlib.contextmanager
def traced() -> Iterator[list[int]]:
    """Give the most that was allocated meanwhile, in bytes."""
    found: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield found
    finally:
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


# -------------------------------------------------------------------------- sites that mean harm


def pushed(line: Line, incoming: Incoming, reply: Message, tree: ObjectTree) -> list[str]:
    """Announce *reply* with a *tree* of the site's choice; return what the server then wants."""
    request = PushMessagesRequest(
        node=line._here,
        messages_list=[message_to_proto(remove_content_from_message(reply))],
        message_object_trees=[tree],
        clientapp_runtime_list=[0.0],
    )
    said_ = line._client.PushMessages(request)
    if reply.has_content():
        for name, part in get_all_nested_objects(reply).items():
            put(line, incoming.run, said_.session_id, name, part.deflate())
    return list(said_.objects_to_push)


def put(line: Line, run: int, session: str, name: str, content: bytes) -> bool:
    request = PushObjectRequest(
        node=line._here, run_id=run, object_id=name, object_content=content, session_id=session
    )
    return bool(line._client.PushObject(request).stored)


def asked(wire: Wire) -> tuple[str, Line, Incoming, Message]:
    node, line = wire.node()
    name = wire.ask(node)[node]
    incoming = line.poll()
    assert incoming is not None
    reply = make_message(line._envelope(incoming), said("honest"))
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return name, line, incoming, reply


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_a_tree_that_doubles_at_each_level_stops_nobody(wire: Wire) -> None:
    name, line, incoming, reply = asked(wire)
    tree = ObjectTree(object_id=digest(0))
    for level in range(1, 60):
        leaf = ObjectTree(object_id=tree.object_id)
        tree = ObjectTree(object_id=digest(level), children=[tree, leaf])
    top = ObjectTree(object_id=reply.object_id, children=[tree])

    began = time.monotonic()
    pushed(line, incoming, reply, top)
    assert not wire.link.arrived(name)
    wire.link.forget([name])

    assert time.monotonic() - began < 5
    assert len(wire.link._store) == 0


def test_an_answer_is_not_there_until_it_is_whole(wire: Wire) -> None:
    name, line, incoming, reply = asked(wire)
    tree = get_object_tree(reply)
    tree.children.append(ObjectTree(object_id=digest(1)))

    pushed(line, incoming, reply, tree)

    assert not wire.link.arrived(name)


def test_objects_with_names_of_files_are_refused(wire: Wire, tmp_path: Path) -> None:
    import httpx

    (tmp_path / "roster.json").write_text("{}")
    name, line, incoming, reply = asked(wire)
    tree = get_object_tree(reply)
    tree.children.append(ObjectTree(object_id="../roster.json"))

    with pytest.raises(httpx.HTTPStatusError):
        pushed(line, incoming, reply, tree)
    wire.link.forget([name])
    wire.link.end(wire.run)

    assert (tmp_path / "roster.json").read_text() == "{}"


def test_a_content_that_is_not_what_its_name_says_is_not_kept(wire: Wire) -> None:
    name, line, incoming, reply = asked(wire)
    tree = get_object_tree(reply)
    request = PushMessagesRequest(
        node=line._here,
        messages_list=[message_to_proto(remove_content_from_message(reply))],
        message_object_trees=[tree],
    )
    session = line._client.PushMessages(request).session_id

    assert not put(line, incoming.run, session, reply.object_id, b"something else")
    assert not put(line, incoming.run, session, digest(7), b"7")
    assert not wire.link.arrived(name)


def test_a_sites_own_fault_is_a_sentence(wire: Wire) -> None:
    name, line, incoming, _ = asked(wire)
    failed = make_message(line._envelope(incoming), error=Error(code=0, reason="SMITH^JOHN"))
    failed.metadata.__dict__["_message_id"] = failed.object_id
    pushed(line, incoming, failed, get_object_tree(failed))

    with pytest.raises(ExchangeError, match="its app failed") as caught:
        wire.link.take(name)
    assert "SMITH" not in str(caught.value)


def test_an_answer_of_another_shape_is_a_sentence(wire: Wire) -> None:
    name, line, incoming, reply = asked(wire)
    records = said("a record, and no message")
    announced = PushMessagesRequest(
        node=line._here,
        messages_list=[message_to_proto(_renamed(reply, records.object_id))],
        message_object_trees=[get_object_tree(records)],
    )
    session = line._client.PushMessages(announced).session_id
    for part, content in get_all_nested_objects(records).items():
        put(line, incoming.run, session, part, content.deflate())

    with pytest.raises(ExchangeError, match="no records"):
        wire.link.take(name)


def _renamed(reply: Message, name: str) -> Message:
    bare = remove_content_from_message(reply)
    bare.metadata.__dict__["_message_id"] = name
    return bare


def test_a_site_answers_and_never_asks(wire: Wire) -> None:
    victim, theirs = wire.node()
    _, line, incoming, _ = asked(wire)
    envelope = line._envelope(incoming)
    forged = type(envelope)(
        run_id=wire.run, message_id="", src_node_id=1, dst_node_id=victim,
        reply_to_message_id="", group_id="", created_at=time.time(), ttl=1000.0,
        message_type="train",
    )  # fmt: skip
    order = make_message(forged, RecordDict())
    order.metadata.__dict__["_message_id"] = order.object_id

    pushed(line, incoming, order, get_object_tree(order))

    assert theirs.poll() is None, "a site gave another one an order"


def test_a_second_answer_and_one_to_nothing_change_nothing(wire: Wire) -> None:
    name, line, incoming, reply = asked(wire)
    pushed(line, incoming, reply, get_object_tree(reply))
    other = make_message(line._envelope(incoming), said("a second one"))
    other.metadata.__dict__["_message_id"] = other.object_id

    assert pushed(line, incoming, other, get_object_tree(other)) == []

    assert wire.link.take(name)["text"]["said"] == "honest"  # type: ignore[index]
    assert pushed(line, incoming, other, get_object_tree(other)) == []
    wire.link.end(wire.run)
    assert len(wire.link._store) == 0
