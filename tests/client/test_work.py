"""What leaves a site is what the page for an auditor says, and nothing else."""

import json
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_runs import Noise, noise, tiny_run
from torch import Tensor

from confrere_client import work
from confrere_client.state import Keepsake
from confrere_client.train import LocalState, Trainer
from confrere_client.work import SENT, Desk, answer
from confrere_common.config import Run
from confrere_common.errors import CheckpointError, DataError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.loading import COMMON_FAMILIES, digest, dump, parse_run
from confrere_common.model import build_model, shared_weights
from confrere_common.weights import add

NAME = "PATIENT-NAME /data/ward7"


def trainer(text: str) -> Trainer:
    return Trainer(parse_run(json.loads(text), COMMON_FAMILIES))


def desk_in(folder: Path, run: Run) -> Desk:
    keepsake = Keepsake(folder=folder, digest=digest(dump(run)), keep=3)
    return Desk(site="north", images=noise(6), keepsake=keepsake, trainer=trainer)


def task_of(run: Run, round: int = 1) -> Task:
    weights = shared_weights(build_model(run, seed=7))
    return Task(run=dump(run), round=round, seed=0, weights=weights)


@pytest.fixture
def run() -> Run:
    return tiny_run("byol")


@pytest.fixture
def desk(tmp_path: Path, run: Run) -> Desk:
    return desk_in(tmp_path / "state", run)


def test_a_task_is_answered_with_the_change_of_the_weights(desk: Desk, run: Run) -> None:
    task = task_of(run)

    given = answer(task, desk)

    assert isinstance(given, Update)
    assert (given.site, given.round, given.images) == ("north", 1, 6)
    assert given.delta.keys() == task.weights.keys()
    assert any(bool(delta.any()) for delta in given.delta.values())


def test_a_teacher_never_leaves_the_site(desk: Desk, run: Run) -> None:
    given = answer(task_of(run), desk)

    assert isinstance(given, Update)
    assert not [name for name in given.delta if "teacher" in name]
    assert [name for name in desk.keepsake.load(before=2) if "teacher" in name]


def test_only_the_figures_in_the_list_leave(
    desk: Desk, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_figures = answer(task_of(run), desk)
    monkeypatch.setattr(work, "SENT", ("loss",))
    one_figure = answer(task_of(run), desk)

    assert isinstance(all_figures, Update)
    assert isinstance(one_figure, Update)
    assert set(all_figures.metrics) <= set(SENT)
    assert {"loss", "seconds", "seen", "rankme"} <= set(all_figures.metrics)
    assert set(one_figure.metrics) == {"loss"}


def test_an_update_has_room_for_nothing_else() -> None:
    assert [one.name for one in fields(Update)] == [
        "site", "round", "delta", "images", "metrics", "description", "marks",
    ]  # fmt: skip
    assert [one.name for one in fields(Refusal)] == ["site", "round", "reason"]


def test_a_task_done_again_is_answered_in_the_same_bits(desk: Desk, run: Run) -> None:
    first = answer(task_of(run), desk)
    assert isinstance(first, Update)
    second = replace(task_of(run, round=2), weights=add(task_of(run).weights, first.delta))

    one, two = answer(second, desk), answer(second, desk)

    assert isinstance(one, Update)
    assert isinstance(two, Update)
    assert all(torch.equal(one.delta[name], two.delta[name]) for name in one.delta)


def test_a_task_whose_weights_do_not_fit_is_refused(desk: Desk, run: Run) -> None:
    task = task_of(run)
    short = dict(list(task.weights.items())[1:])
    broken = {name: tensor * torch.nan for name, tensor in task.weights.items()}

    for weights, due in ((short, "names differ"), (broken, "holds NaN")):
        given = answer(replace(task, weights=weights), desk)

        assert isinstance(given, Refusal)
        assert due in given.reason


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"name": 3}', "null"])
def test_a_task_without_a_sound_run_is_refused(desk: Desk, run: Run, text: str) -> None:
    given = answer(replace(task_of(run), run=text), desk)

    assert isinstance(given, Refusal)
    assert given.round == 1


def test_a_round_that_cannot_be_computed_is_refused_with_our_own_sentence(tmp_path: Path) -> None:
    run = tiny_run(train={"lr": 1e30, "clip_norm": None, "steps_per_round": 8})

    given = answer(task_of(run), desk_in(tmp_path, run))

    assert isinstance(given, Refusal)
    assert "Lower train.lr (now 1e+30)" in given.reason


@dataclass(frozen=True)
class Failing(Noise):
    """Images that cannot be read."""

    fault: Exception

    def batch(self, positions: NDArray[np.int64]) -> Tensor:  # noqa: ARG002
        raise self.fault


class Unforeseen(Exception):  # noqa: N818
    """A kind of error of which Confrere knows nothing."""


@pytest.mark.parametrize(
    "fault",
    [
        FileNotFoundError(2, "No such file or directory", NAME),
        ValueError(NAME),
        KeyError(NAME),
        MemoryError(NAME),
        RecursionError(NAME),
        Unforeseen(NAME),
        DataError(f"1 patients have images at several sites. One of them: {NAME}."),
    ],
)
def test_no_text_of_an_exception_leaves_or_is_logged(
    desk: Desk, run: Run, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """``work.answer``: "Guarantee: no exception leaves this function, since its text could name a
    patient or a path."
    """
    fault.__cause__ = OSError(NAME)
    bad = replace(desk, images=Failing(noise(6).images_BCYX, fault))

    with caplog.at_level(logging.DEBUG):
        given = answer(task_of(run), bad)

    assert isinstance(given, Refusal)
    assert type(fault).__name__ in given.reason
    assert (given.site, given.round) == ("north", 1)
    for told in (given.reason, caplog.text):
        assert "PATIENT" not in told
        assert "ward7" not in told
    assert caplog.records


def test_the_log_says_where_a_fault_arose(
    desk: Desk, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    bad = replace(desk, images=Failing(noise(6).images_BCYX, ValueError(NAME)))

    answer(task_of(run), bad)

    assert "in fetch" in caplog.text
    assert "ValueError" in caplog.text


def test_an_interruption_is_no_refusal(desk: Desk, run: Run) -> None:
    def interrupted(text: str) -> Trainer:  # noqa: ARG001
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(task_of(run), replace(desk, trainer=interrupted))


@dataclass(frozen=True, kw_only=True)
class FullDisk(Keepsake):
    """A keepsake whose disk is full."""

    def save(self, round: int, state: LocalState) -> None:  # noqa: ARG002
        raise CheckpointError(f"round {round} could not be saved: No space left on device.")


def test_a_full_disk_at_the_site_is_a_refusal_and_not_an_update_out_of_step(
    desk: Desk, run: Run, tmp_path: Path
) -> None:
    full = FullDisk(folder=tmp_path, digest="a" * 64, keep=3)

    given = answer(task_of(run), replace(desk, keepsake=full))

    assert isinstance(given, Refusal)
    assert "No space left on device" in given.reason
