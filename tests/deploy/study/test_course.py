"""A course knows the best round, when to stop, and what it knew before a crash."""

import math
from pathlib import Path

import torch

from confrere_common.weights import Weights
from confrere_deploy.study.course import COURSE, Course
from confrere_server.store import ServerState


def state(round: int) -> ServerState:
    return ServerState(round=round, weights={"w": torch.tensor(float(round))}, step={})


def course(folder: Path, *scores: float, patience: int | None = 2, digest: str = "d") -> Course:
    def examine(weights: Weights) -> float:
        return scores[int(weights["w"]) - 1]

    return Course(folder=folder, digest=digest, patience=patience, examine=examine)


def test_training_ends_when_patience_does_and_the_best_round_answers(tmp_path: Path) -> None:
    found = course(tmp_path, 0.5, 0.9, 0.8, 0.7, 0.6)

    ends = [found.enough(state(round)) for round in range(5)]

    assert ends == [False, False, False, False, True]
    assert found.best == 2
    assert float(found.chosen(state(4))["w"]) == 2


def test_without_patience_or_scores_it_goes_on(tmp_path: Path) -> None:
    endless, blind = (
        course(tmp_path / "a", 0.9, 0.1, 0.1, patience=None),
        course(tmp_path / "b", *[math.nan] * 3, patience=1),
    )

    assert not any(one.enough(state(round)) for one in (endless, blind) for round in (1, 2, 3))
    assert float(blind.chosen(state(3))["w"]) == 3


def test_a_course_taken_up_again_knows_its_rounds_and_another_s_not(tmp_path: Path) -> None:
    first = course(tmp_path, 0.5, 0.9, 0.8)
    for round in (1, 2, 3):
        first.enough(state(round))

    again, other = course(tmp_path, 9.0), course(tmp_path, 0.1, digest="e")

    assert again.scores == {1: 0.5, 2: 0.9, 3: 0.8}
    assert float(again.chosen(state(3))["w"]) == 2
    assert not other.scores


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / COURSE).write_text("[1")

    assert not course(tmp_path, 0.5).scores


def test_the_last_round_is_looked_at_too_and_may_be_the_best(tmp_path: Path) -> None:
    found = course(tmp_path, 0.5, 0.6, 0.9)
    for round in (1, 2):
        found.enough(state(round))

    chosen = found.chosen(state(3))

    assert float(chosen["w"]) == 3
    assert found.scores == {1: 0.5, 2: 0.6, 3: 0.9}
    assert found.best == 3
