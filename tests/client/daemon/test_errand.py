"""A round's work in a file, and the name under which its answer is kept."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from confrere_client.daemon.errand import TRIES, errand_key, may_begin, read_spooled, spool
from confrere_common.code import code_digest
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Task

TASK = Task(
    run='{"name": "r"}', round=3, seed=7, weights={"w": torch.arange(6.0), "b": torch.zeros(())}
)


def test_a_task_is_read_as_it_was_spooled(tmp_path: Path) -> None:
    made = spool(tmp_path / "spool", "run-1", TASK, "key")

    found = read_spooled(made.path)

    assert (found.run, found.round, found.seed) == (TASK.run, 3, 7)
    assert found.weights.keys() == TASK.weights.keys()
    assert all(torch.equal(found.weights[name], TASK.weights[name]) for name in TASK.weights)
    assert made.as_dict() == {
        "key": "key",
        "run_id": "run-1",
        "round": 3,
        "path": str(made.path),
        "code": code_digest(),
        "masked": False,
    }


def test_a_round_is_begun_from_few_different_weights(tmp_path: Path) -> None:
    begun = [may_begin(tmp_path, 1, f"{number}") for number in range(TRIES + 1)]

    assert begun == [True] * TRIES + [False]
    assert may_begin(tmp_path, 1, "0")  # the same again is no other
    assert may_begin(tmp_path, 2, "new")


def test_of_one_evaluation_one_model_is_scored_however_often_that_is_asked(tmp_path: Path) -> None:
    begun = [may_begin(tmp_path, 1, key, "evaluation") for key in ("a", "a", "b")]

    assert begun == [True, True, False]
    assert may_begin(tmp_path, 2, "b", "evaluation")


def test_only_one_task_lies_there_and_others_may_not_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool(folder, "run-1", TASK, "one")
    two = spool(folder, "run-1", TASK, "two")

    assert list(folder.iterdir()) == [two.path]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_equal_work_has_an_equal_name_and_any_other_another() -> None:
    same = replace(TASK, weights={"b": torch.zeros(()), "w": torch.arange(6.0)})
    others = [
        replace(TASK, run="{}"),
        replace(TASK, round=4),
        replace(TASK, seed=8),
        replace(TASK, weights={"w": torch.arange(6.0) + 1e-6, "b": torch.zeros(())}),
        replace(TASK, weights={"w": torch.arange(6.0)}),
    ]

    key = errand_key("run-1", TASK)

    assert errand_key("run-1", same) == key
    names = {errand_key("run-1", other) for other in others} | {errand_key("run-2", TASK)}
    assert len(names) == len(others) + 1
    assert key not in names


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x10\x00\x00\x00\x00\x00\x00\x00{}" * 9])
def test_a_damaged_task_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.task"
    path.write_bytes(content)

    with pytest.raises(ExchangeError, match="cannot be read"):
        read_spooled(path)
    with pytest.raises(ExchangeError, match="cannot be read"):
        read_spooled(tmp_path / "none.task")
