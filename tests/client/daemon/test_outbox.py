"""Finished updates at rest: encrypted, sent again as they are, never taken for another's."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confrere_client.daemon.outbox import MaskedUpdate, Outbox, digest_of_update
from confrere_common import at_rest as module
from confrere_common.exchange import Update

UPDATE = Update(
    site="north",
    round=3,
    delta={"w": torch.linspace(-1, 1, 5000), "b": torch.tensor(0.5)},
    images=41,
    metrics={"loss": 0.25},
)
KEY = bytes(range(32))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(folder=tmp_path / "outbox", key=KEY)


def same(one: Update | MaskedUpdate | None, two: Update) -> bool:
    if not isinstance(one, Update) or one.delta.keys() != two.delta.keys():
        return False
    equal = all(torch.equal(one.delta[name], two.delta[name]) for name in two.delta)
    return equal and replace(one, delta={}) == replace(two, delta={})


def test_an_update_comes_back_as_it_was_put(outbox: Outbox) -> None:
    outbox.put("errand", "run-1", UPDATE)

    assert outbox.get("errand") is not None
    assert same(outbox.get("errand"), UPDATE)
    assert same(outbox.get("errand"), UPDATE)  # as often as it is asked for
    assert outbox.get("another") is None


def test_a_masked_update_comes_back_to_the_bit(outbox: Outbox) -> None:
    vector = np.random.default_rng(0).integers(0, 2**32, 5000, np.uint32)

    outbox.put_masked("errand", "run-1", MaskedUpdate(round=4, vector=vector))
    found = outbox.get("errand")

    assert isinstance(found, MaskedUpdate)
    assert found.round == 4
    assert found.vector.tobytes() == vector.tobytes()
    assert digest_of_update(found) == digest_of_update(MaskedUpdate(round=4, vector=vector))


@pytest.mark.parametrize("frame", [64, 4096, 20_052])
def test_frames_of_any_size_make_the_same_update(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    monkeypatch.setattr(module, "FRAME", frame)

    outbox.put("errand", "run-1", UPDATE)

    assert same(outbox.get("errand"), UPDATE)


def test_nothing_of_it_can_be_read_on_the_disk(outbox: Outbox) -> None:
    outbox.put("errand", "run-1", UPDATE)

    (path,) = outbox.folder.iterdir()
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700
    for clear in (b"north", b"loss", b"run-1", UPDATE.delta["w"].numpy().tobytes()[:64]):
        assert clear not in content
    outbox.put("errand", "run-1", UPDATE)
    assert path.read_bytes()[12:] != content[12:], "two writings share a nonce"


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_makes_it_none(outbox: Outbox, place: float, bit: int) -> None:
    outbox.put("errand", "run-1", UPDATE)
    (path,) = outbox.folder.iterdir()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)

    assert outbox.get("errand") is None
    assert outbox.get("errand") is None


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:0], lambda c: c[:10], lambda c: c[:-1], lambda c: c + b"x", lambda c: c[:4000]],
)
def test_a_torn_one_is_none_and_removed(outbox: Outbox, damage: Callable[[bytes], bytes]) -> None:
    outbox.put("errand", "run-1", UPDATE)
    (path,) = outbox.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))

    assert outbox.get("errand") is None
    assert outbox.get("errand") is None


def test_frames_that_changed_places_are_noticed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRAME", 4096)
    outbox.put("errand", "run-1", UPDATE)
    (path,) = outbox.folder.iterdir()
    content, head, size = path.read_bytes(), 16, 4096 + module.TAG
    one, two = content[head : head + size], content[head + size : head + 2 * size]
    path.write_bytes(content[:head] + two + one + content[head + 2 * size :])

    assert outbox.get("errand") is None


def test_another_errands_entry_under_this_name_is_not_taken(outbox: Outbox) -> None:
    outbox.put("one", "run-1", UPDATE)
    (outbox.folder / "one.box").rename(outbox.folder / "two.box")

    assert outbox.get("two") is None


def test_another_sites_key_opens_nothing(outbox: Outbox) -> None:
    outbox.put("errand", "run-1", UPDATE)

    assert replace(outbox, key=os.urandom(32)).get("errand") is None


def test_what_has_arrived_is_removed(outbox: Outbox) -> None:
    for name in ("one", "two", "three"):
        outbox.put(name, "run-1", UPDATE)

    outbox.drop_all_but("two")

    assert [path.name for path in outbox.folder.iterdir()] == ["two.box"]
