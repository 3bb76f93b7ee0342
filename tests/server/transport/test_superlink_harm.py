"""What sites that mean harm push to Flower's SuperLink; a contract as in ``test_superlink``."""

import hashlib
import time
from pathlib import Path

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from wired import Wire, said

from confrere_client.daemon.fleet import Incoming, Line
from confrere_common.errors import ExchangeError


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path / "objects")


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
