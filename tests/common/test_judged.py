"""``judged.evaluation_text``: "Guarantee: nothing but whole numbers leaves, under names that both
sides know; every count is of *least* images or more."
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from tiny_runs import tiny_run, tuning

from confrere_common.config import Run
from confrere_common.describe import MOST_TEXT
from confrere_common.errors import ExchangeError
from confrere_common.judged import (
    SCORED,
    evaluation_of,
    evaluation_text,
    is_due,
    read_evaluation,
)
from confrere_common.privacy.settings import Privacy
from confrere_common.task import TASKS

SOUND: dict[str, Any] = {
    "classes": 2,
    "smallest": 10,
    "tallies": [{"kind": 1, "positives": [[0, 64, 12], [64, 128, 10]], "negatives": [[0, 9, 30]]}],
}


def rounds(count: int, **evaluation: Any) -> Run:
    run = tuning(evaluation=evaluation)
    return replace(run, federation=replace(run.federation, rounds=count))


def test_a_run_is_evaluated_at_its_end_and_every_so_often() -> None:
    assert [r for r in range(12) if is_due(rounds(10), r)] == [10]
    assert [r for r in range(12) if is_due(rounds(10, every=4), r)] == [4, 8, 10]


@pytest.mark.parametrize(
    "run",
    [
        tuning(evaluation=None),
        tiny_run(),
        replace(tuning(missing="keep"), privacy=Privacy(epsilon=8.0, delta=1e-5)),
    ],
)
def test_other_runs_ask_for_nothing(run: Run) -> None:
    assert evaluation_of(run) is None
    assert not is_due(run, 2)


@pytest.mark.parametrize("task", TASKS.names())
def test_every_task_is_scored_where_the_run_does_not_say_otherwise(task: str) -> None:
    knobs = {"normal": "a"} if task == "anomaly" else {}

    assert evaluation_of(tuning(task, knobs=knobs)) is not None
    assert SCORED[task] in ("auc", "dice", "precision")


def test_what_is_sound_is_read_back_as_it_was() -> None:
    assert read_evaluation(evaluation_text(SOUND, 2, 10), 2, 10) == SOUND


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"smallest": 9}, "its cells hold 9 or more; the run asks for 10"),
        ({"smallest": 11}, "a count in it is of fewer than 11"),
        ({"smallest": True}, "its cells hold True"),
        ({"classes": 3}, "other classes than the run's 2"),
        ({"tallies": SOUND["tallies"] * 2}, "tells of a class twice"),
        ({"tallies": SOUND["tallies"] * 3}, "other classes"),
        ({"patient": "Mueller"}, "no evaluation of this version"),
        ({"tallies": [{**SOUND["tallies"][0], "negatives": [[0, 9, 9]]}]}, "fewer than 10"),
        ({"tallies": [{**SOUND["tallies"][0], "kind": 2}]}, "of class 2"),
        ({"tallies": [{**SOUND["tallies"][0], "negatives": "Mueller"}]}, "no tally"),
    ],
)
def test_what_is_unsound_neither_leaves_nor_is_believed(change: dict[str, Any], said: str) -> None:
    plain = {**SOUND, **change}

    with pytest.raises(ExchangeError, match=said):
        evaluation_text(plain, 2, 10)
    with pytest.raises(ExchangeError, match=said):
        read_evaluation(json.dumps(plain), 2, 10)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "3", "[" * 5000])
def test_rubbish_is_refused(text: str) -> None:
    with pytest.raises(ExchangeError):
        read_evaluation(text, 2, 10)


def test_a_text_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(ExchangeError, match=f"at most {MOST_TEXT}"):
        read_evaluation(" " * (MOST_TEXT + 1), 2, 10)
