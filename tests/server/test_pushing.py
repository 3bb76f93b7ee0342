"""A message can be seen only when all of it is there."""

from pathlib import Path

import pytest
from wired import Wire, model

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
