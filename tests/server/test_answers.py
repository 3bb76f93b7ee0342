"""A site that answers rubbish, refuses, repeats itself or is silent is named and left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from stage import (
    SOUND,
    START,
    Stage,
    answering,
    delta,
    federation,
    moved,
    record_of,
    refusing,
    silent,
)

from confrere_common.exchange import Answer, Task
from confrere_server.rounds import one_round
from confrere_server.rule import RULES

NOT_A_NUMBER = {"w": torch.tensor([[1.0, torch.nan], [1, 1]]), "b": torch.tensor(1.0)}
FAULTY: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "NaN": ({"delta": NOT_A_NUMBER}, "its update was left out: 'w' holds NaN"),
    "infinity": ({"delta": delta(torch.inf)}, "left out: 'w' holds NaN or infinite"),
    "a wrong shape": ({"delta": {**delta(9), "w": torch.ones(4)}}, "'w' has shape (4,)"),
    "a missing name": ({"delta": {"w": torch.ones(2, 2)}}, "names differ"),
    "a name too many": ({"delta": {**delta(9), "x": torch.ones(1)}}, "first 'x'"),
    "no names": ({"delta": {}}, "names differ"),
    "whole numbers": (
        {"delta": {**delta(9), "w": torch.ones(2, 2, dtype=torch.int64)}},
        "'w' is torch.int64",
    ),
    "no image": ({"images": 0}, "it names 0 images"),
    "fewer than no image": ({"images": -5}, "it names -5 images"),
}


@pytest.mark.parametrize("rule", RULES.names())
@pytest.mark.parametrize("what", FAULTY)
def test_a_site_that_answers_rubbish_is_named_and_left_out(what: str, rule: str) -> None:
    changes, due = FAULTY[what]
    sites = {"east": answering("east"), "west": answering("west"), "mid": answering("mid")}
    bad = answering("bad", 9.0, **changes)

    state = one_round(Stage({**sites, "bad": bad}, federation(rule={"name": rule})).study, START)

    assert moved(state) == 1.0
    assert due in record_of(state, "bad").refused
    assert state.records[0].loss == 1.0


def test_a_site_that_refuses_is_recorded_with_its_reason() -> None:
    state = one_round(Stage({**SOUND, "west": refusing("west")}).study, START)

    assert moved(state) == 2.0
    assert record_of(state, "west").refused == "the disk is full"


def test_a_site_that_never_answers_is_recorded_as_silent() -> None:
    state = one_round(Stage({**SOUND, "west": silent}).study, START)

    assert moved(state) == 2.0
    assert record_of(state, "west").refused == "it did not answer in time"


def test_a_second_answer_of_a_site_counts_for_nothing() -> None:
    def twice(task: Task) -> Sequence[Answer]:
        return [*answering("west", 2.0)(task), *answering("west", 99.0)(task)]

    state = one_round(Stage({**SOUND, "west": twice}).study, START)

    assert moved(state) == 2.0
    assert [one.site for one in state.records[0].sites] == ["north", "south", "west"]


def test_a_site_that_first_refuses_cannot_answer_after_all() -> None:
    def both(task: Task) -> Sequence[Answer]:
        return [*refusing("west")(task), *answering("west", 99.0)(task)]

    state = one_round(Stage({**SOUND, "west": both}).study, START)

    assert moved(state) == 2.0
    assert record_of(state, "west").refused == "the disk is full"


def test_an_answer_that_was_not_asked_for_counts_for_nothing() -> None:
    sites = {**SOUND, "west": answering("stranger", 99.0)}

    state = one_round(Stage(sites).study, START)

    assert moved(state) == 2.0
    assert record_of(state, "west").refused == "it did not answer in time"
    assert "stranger" not in {one.site for one in state.records[0].sites}


def test_an_answer_to_an_earlier_round_does_not_use_up_the_site_s_own() -> None:
    def late(task: Task) -> Sequence[Answer]:
        return [*answering("west", 99.0, round=0)(task), *answering("west", 2.0)(task)]

    state = one_round(Stage({**SOUND, "west": late}).study, START)

    assert moved(state) == 2.0
    assert record_of(state, "west").refused == ""


def test_figures_that_are_no_numbers_are_not_kept() -> None:
    told = {"loss": float("nan"), "rankme": float("inf"), "seen": 4.0}
    sites = {"north": answering("north", metrics=told)}

    state = one_round(Stage(sites).study, START)

    assert record_of(state, "north").metrics == {"seen": 4.0}
    assert state.records[0].loss is None
