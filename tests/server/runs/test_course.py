"""A course knows the best round, when to stop, and what it knew before a crash."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from confrere_common.at_rest import MAGIC
from confrere_common.errors import CheckpointError
from confrere_server.runs.course import BEST, COURSE, Course, Heard, standing
from confrere_server.store import ServerState


def state(round: int) -> ServerState:
    return ServerState(round=round, weights={"w": torch.tensor(float(round))}, step={})


def course(folder: Path, *scores: float, patience: int | None = 2, digest: str = "d") -> Course:
    def examine(joined: ServerState) -> Heard:
        return {"here": (scores[int(joined.weights["w"]) - 1], 9)}

    return Course(folder=folder, digest=digest, patience=patience, examine=examine)


def test_training_ends_when_patience_does_and_the_best_round_answers(tmp_path: Path) -> None:
    found = course(tmp_path, 0.5, 0.9, 0.8, 0.7, 0.6)

    ends = [found.enough(state(round)) for round in range(5)]

    assert ends == [False, False, False, False, True]
    assert found.best == 2
    assert float(found.kept(state(4))["w"]) == 2


def test_without_patience_or_scores_it_goes_on(tmp_path: Path) -> None:
    endless, blind = (
        course(tmp_path / "a", 0.9, 0.1, 0.1, patience=None),
        course(tmp_path / "b", *[math.nan] * 3, patience=1),
    )

    assert not any(one.enough(state(round)) for one in (endless, blind) for round in (1, 2, 3))
    assert float(blind.kept(state(3))["w"]) == 3
    assert blind.chosen is None


def test_a_course_taken_up_again_knows_its_rounds_and_another_s_not(tmp_path: Path) -> None:
    first = course(tmp_path, 0.5, 0.9, 0.8)
    for round in (1, 2, 3):
        first.enough(state(round))

    again, other = course(tmp_path, 9.0), course(tmp_path, 0.1, digest="e")

    assert again.scores == {1: 0.5, 2: 0.9, 3: 0.8}
    assert float(again.kept(state(3))["w"]) == 2
    assert not other.scores


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / COURSE).write_text("[1")

    assert not course(tmp_path, 0.5).scores


def test_the_last_round_is_looked_at_too_and_may_be_the_best(tmp_path: Path) -> None:
    found = course(tmp_path, 0.5, 0.6, 0.9)
    for round in (1, 2):
        found.enough(state(round))

    chosen = found.kept(state(3))

    assert float(chosen["w"]) == 3
    assert found.scores == {1: 0.5, 2: 0.6, 3: 0.9}
    assert found.best == 3


def test_two_rounds_are_compared_over_those_who_validated_both() -> None:
    """Else a round would be better because a hard site was away."""
    hard_away: dict[int, Heard] = {
        1: {"easy": (0.9, 50), "hard": (0.3, 50)},
        2: {"easy": (0.8, 50), "hard": "it did not answer in time"},
        3: {"easy": (0.9, 50), "hard": (0.4, 50)},
    }

    assert standing(hard_away) == (3, 0)
    assert standing({n: hard_away[n] for n in (1, 2)}) == (1, 1)


def test_a_site_counts_as_its_images_do() -> None:
    small_gains: dict[int, Heard] = {
        1: {"large": (0.8, 90), "small": (0.5, 10)},
        2: {"large": (0.7, 90), "small": (1.0, 10)},
    }

    assert standing(small_gains) == (1, 1)


def test_where_nobody_validated_both_the_later_one_stands() -> None:
    assert standing({1: {"a": (0.9, 9)}, 2: {}, 3: {"b": (0.1, 9)}}) == (3, 0)
    assert standing({1: {}, 2: {"a": "nothing-to-score"}}) == (0, 0)


def test_of_a_history_that_is_done_again_nothing_later_is_known(tmp_path: Path) -> None:
    """The server lost its last checkpoint: rounds that were better then may not be so now."""
    found = course(tmp_path, 0.5, 0.6, 0.4)
    for round in (1, 2, 3):
        found.enough(state(round))

    found.enough(state(2))
    assert found.scores == {1: 0.5, 2: 0.6}

    found.enough(state(1))  # round 2 was the best: what is kept is of it, and of no other
    assert found.scores == {1: 0.5}
    assert float(found.kept(state(1))["w"]) == 1


@pytest.mark.parametrize("damage", ["gone", "cut short", "another run's"])
def test_weights_that_are_not_the_best_round_s_are_not_taken_for_it(
    tmp_path: Path, damage: str
) -> None:
    found = course(tmp_path, 0.9, 0.1)
    found.enough(state(1))
    kept = tmp_path / BEST / "round-0001"
    match damage:
        case "gone":
            shutil.rmtree(kept)
        case "cut short":
            path = kept / "weights.safetensors"
            path.write_bytes(path.read_bytes()[:10])
        case _:
            course(tmp_path / "other", 0.9, digest="e").enough(state(1))
            shutil.rmtree(kept)
            (tmp_path / "other" / BEST / "round-0001").rename(kept)

    with pytest.raises(CheckpointError, match=r"round-0001|another run"):
        found.kept(state(2))


def test_the_best_weights_are_encrypted_at_rest_where_checkpoints_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFRERE_KEY", "ab" * 32)
    found = course(tmp_path, 0.9, 0.1)
    found.enough(state(1))

    content = (tmp_path / BEST / "round-0001/weights.safetensors").read_bytes()
    assert content.startswith(MAGIC)
    assert float(found.kept(state(2))["w"]) == 1
