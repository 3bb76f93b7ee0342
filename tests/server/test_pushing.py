"""A message can be seen only when all of it is there; and how nodes' calls are answered."""

from pathlib import Path

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from wired import Wire, model

from confrere_server.transport import superlink
from confrere_server.transport.objects import ObjectFiles


def test_a_node_that_asks_while_a_message_is_stored_is_told_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(tmp_path / "objects")
    node, line = wire.node()
    seen: list[object] = []
    put = ObjectFiles.put

    def asked_meanwhile(store: ObjectFiles, name: str, content: bytes) -> None:
        seen.append(line.poll())
        put(store, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectFiles, "put", asked_meanwhile)
        wire.ask(node, content=model(1))

    assert seen
    assert set(seen) == {None}
    incoming = line.poll()
    assert incoming is not None
    assert line.fetch(incoming) == model(1)


def test_nothing_is_kept_for_a_node_that_nobody_knows(tmp_path: Path) -> None:
    wire = Wire(tmp_path / "objects")

    sent = wire.ask(12345, content=model(1))

    assert sent == {}
    assert wire.files == []


@pytest.mark.parametrize("stranger", [False, True])
def test_the_short_way_says_what_flowers_own_app_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stranger: bool
) -> None:
    wire = Wire(tmp_path / "objects")
    node, line = wire.node()
    _, other = wire.node()
    asked = wire.ask(node, content=model(1))[node]
    request = PullObjectRequest(node=Node(node_id=node), run_id=wire.run, object_id=asked)
    client = (other if stranger else line)._client

    def said() -> tuple[int, bytes]:
        try:
            return 200, client.PullObject(request).SerializeToString()
        except httpx.HTTPStatusError as fault:
            return fault.response.status_code, fault.response.content

    short = said()
    with monkeypatch.context() as patch:
        patch.setattr(superlink, "SHORT", {})
        long = said()

    assert short == long
    assert short[0] == (401 if stranger else 200)
