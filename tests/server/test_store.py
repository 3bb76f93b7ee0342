"""The server's state outlives a crash, and is never mixed with another run's."""

import logging
from pathlib import Path

import pytest
import torch

from confrere_common.checkpoint import folder_of
from confrere_common.errors import CheckpointError
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.store import ServerState, newest_state, save_state

DIGEST = "a" * 64


def state(round: int) -> ServerState:
    sites = (
        SiteRecord(site="north", images=7, metrics={"loss": 0.1 + round}),
        SiteRecord(site="south", refused="it did not answer in time"),
    )
    records = tuple(
        RoundRecord(round=number, sites=sites, bytes_up=8, bytes_down=16, seconds=0.25, void="")
        for number in range(1, round + 1)
    )
    weights = {"w": torch.full((2, 2), float(round)), "b": torch.tensor(0.1)}
    return ServerState(
        round=round, weights=weights, step={"m.w": torch.ones(2, 2) / 3}, records=records
    )


def save(root: Path, *rounds: int) -> None:
    for number in rounds:
        save_state(root, state(number), digest=DIGEST, keep=3)


def same(one: ServerState, two: ServerState) -> bool:
    tensors = [(one.weights, two.weights), (one.step, two.step)]
    return (one.round, one.records) == (two.round, two.records) and all(
        left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
        for left, right in tensors
    )


def cut_short(root: Path, round: int) -> None:
    path = folder_of(root, round) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_the_newest_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)

    found = newest_state(tmp_path, digest=DIGEST)

    assert found is not None
    assert same(found, state(2))


def test_before_the_first_round_there_is_none(tmp_path: Path) -> None:
    assert newest_state(tmp_path / "none", digest=DIGEST) is None


def test_a_damaged_state_gives_way_to_the_one_before_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2, 3)
    cut_short(tmp_path, 3)

    with caplog.at_level(logging.WARNING):
        found = newest_state(tmp_path, digest=DIGEST)

    assert found is not None
    assert same(found, state(2))
    assert "round-0003/weights.safetensors was cut short or altered" in caplog.text
    assert "the checkpoint before it is used" in caplog.text


def test_the_round_after_a_damaged_one_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    cut_short(tmp_path, 2)

    save(tmp_path, 2)

    found = newest_state(tmp_path, digest=DIGEST)
    assert found is not None
    assert same(found, state(2))


def test_when_all_are_damaged_the_run_begins_anew(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    cut_short(tmp_path, 1)
    cut_short(tmp_path, 2)

    assert newest_state(tmp_path, digest=DIGEST) is None


def test_the_state_of_another_run_is_refused_and_left_in_peace(tmp_path: Path) -> None:
    save(tmp_path, 1)

    with pytest.raises(CheckpointError, match=r"rounds of another run \(digest aaaaaaaaaaaa"):
        newest_state(tmp_path, digest="b" * 64)

    assert newest_state(tmp_path, digest=DIGEST) is not None
