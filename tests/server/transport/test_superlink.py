"""Flower's SuperLink as we use it: a contract with its inner parts, pinned to flwr 1.41."""

import contextlib
import gc
import importlib
import importlib.metadata
import inspect
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wired import MIB, Wire, model, said

from confrere_client.daemon.fleet import RunOver
from confrere_common.errors import ExchangeError
from confrere_server.transport.superlink import SuperLink

ADVICE = (
    "flwr's pin has moved, or what lies under it. Read "
    "server/confrere_server/transport/{superlink,objects}"
    ".py beside the new flwr's server/superlink/linkstate, superlink/servicer/fleet and supercore/"
    "{inflatable,object_store}; run tests/server/transport/test_superlink.py, tests/client/daemon/"
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
def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path / "objects")


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
    from confrere_server.transport.edge import FLEET

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
