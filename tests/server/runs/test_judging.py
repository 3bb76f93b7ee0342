"""What sites say of a model's scores: heard once, believed only if sound, pooled with reasons."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tuning

from confrere_common.config import Run
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.judged import evaluation_text
from confrere_common.tally import read_tally
from confrere_server.pooling import together
from confrere_server.runs.judging import (
    evaluate,
    heard_of,
    judged,
    keep,
    put_together,
    summed,
    within,
)
from confrere_server.runs.queue import Folder, submit
from confrere_server.store import ServerState

RUN = tuning(classes=["a", "b"], evaluation={"every": 1})

MASKS = tuning("segmentation", knobs={"width": 4}, classes=["tumour", "oedema"])


def told(low: int = 20, high: int = 20, smallest: int = 10) -> dict[str, Any]:
    """Return a site's counts of class b: well told apart."""
    tally = {"kind": 1, "positives": [[64, 128, high]], "negatives": [[0, 64, low]]}
    return {"classes": 2, "smallest": smallest, "tallies": [tally]}


def answer(site: str, plain: dict[str, Any], least: int = 10) -> Update:
    text = evaluation_text(plain, 2, least)
    return Update(site=site, round=1, delta={}, images=40, description=text)


def test_each_site_is_there_with_its_counts_or_with_its_reason() -> None:
    answers: list[Answer] = [
        answer("north", told()),
        Refusal(site="south", round=1, reason="policy-evaluation"),
        answer("west", told(5, 5, 5), least=5),
        answer("stranger", told()),
    ]

    said = heard_of(RUN, dict.fromkeys(["east", "north", "south", "west"], 40), answers)

    assert said["north"] == told()
    assert said["south"] == "policy-evaluation"
    assert said["east"] == "it did not answer in time"
    assert said["west"].startswith("its evaluation was left out: its cells hold 5 or more")
    assert "stranger" not in said


def images(plain: dict[str, Any]) -> list[int]:
    return [sum(n for s in ("positives", "negatives") for *_, n in t[s]) for t in plain["tallies"]]


@pytest.mark.parametrize("run", [RUN, MASKS])
def test_a_site_counts_for_no_more_images_than_it_enrolled_with(run: Run) -> None:
    """One that told of a thousand million images was all that a pooled figure told."""
    liar = {"kind": 0, "positives": [[1023, 1024, 10**9 - 1]], "negatives": [[1023, 1024, 10]]}
    honest = {"kind": 0, "positives": [[100, 200, 30]], "negatives": [[300, 400, 30]]}

    def said(**enrolled: int) -> dict[str, Any]:
        plain = {"north": honest, "south": honest, "west": liar}
        answers = [
            answer(site, {"classes": 2, "smallest": 10, "tallies": [plain[site]]})
            for site in enrolled
        ]
        return put_together(heard_of(run, enrolled, answers), run)

    alone, beside = said(north=60, south=60), said(north=60, south=60, west=60)

    assert beside["sites"]["west"]["images"] == 60
    assert beside["sites"]["west"]["claimed"] == 10**9 + 9
    assert "claimed" not in beside["sites"]["north"]
    (figure,) = {"auc", "dice"} & beside.keys()
    assert abs(beside[figure] - alone[figure]) < 0.6  # as many positives as the others, not all
    if figure == "dice":
        assert beside["structures"][0]["high"] < 0.7


@given(
    counts=st.lists(st.integers(10, 10**9 - 1), min_size=2, max_size=20),
    most=st.integers(1, 10**6),
)
def test_what_is_scaled_down_keeps_its_shape_and_is_sound(counts: list[int], most: int) -> None:
    cells = [[n, n + 1, count] for n, count in enumerate(counts)]
    tally = {"kind": 1, "positives": cells[1:], "negatives": cells[:1]}
    plain = {"classes": 2, "smallest": 10, "tallies": [tally]}

    found = within(plain, most)

    assert images(found) == [min(most, sum(counts))]
    read_tally(found["tallies"][0], 2)
    for side in ("positives", "negatives"):
        for first, _, n in found["tallies"][0][side]:
            assert abs(n - counts[first] * min(1, most / sum(counts))) < 1 + 1e-6 * n


def test_a_site_that_enrolled_with_nothing_counts_for_nothing() -> None:
    said = heard_of(RUN, {"north": 0}, [answer("north", told())])

    assert said["north"] == (
        "its evaluation was left out: it enrolled with no images, so none of its counts is taken."
    )


def test_a_tally_of_nothing_is_left_out() -> None:
    empty = {"kind": 1, "positives": [], "negatives": []}
    text = json.dumps({"classes": 2, "smallest": 10, "tallies": [empty]})
    update = Update(site="north", round=1, delta={}, images=40, description=text)

    said = heard_of(RUN, {"north": 40}, [update])

    assert said["north"] == "its evaluation was left out: a tally holds no count at all."


def test_a_site_that_refuses_costs_the_others_nothing() -> None:
    alone = together({"north": told()}, RUN)
    beside = together({"north": told(), "south": "policy-evaluation"}, RUN)

    assert beside["auc"] == alone["auc"] == pytest.approx(1.0)
    assert beside["classes"] == alone["classes"]
    assert beside["sites"]["south"] == {"refused": "policy-evaluation"}
    assert beside["sites"]["north"]["images"] == 40


def test_where_nobody_tells_there_is_no_figure() -> None:
    empty = {"classes": 2, "smallest": 10, "tallies": []}

    found = together({"north": empty, "south": "denied"}, RUN)

    assert "auc" not in found
    assert found["classes"] == []
    assert json.loads(json.dumps(found, allow_nan=False))["sites"]["north"]["images"] == 0


def test_it_is_kept_beside_the_run_and_put_together_in_order(tmp_path: Path) -> None:
    assert judged(tmp_path, 2) is None
    keep(tmp_path, 2, {"north": "denied"})
    keep(tmp_path, 1, {"north": told()})

    found = summed(tmp_path, RUN)

    assert [one["round"] for one in found] == [1, 2]
    assert judged(tmp_path, 2) == {"north": "denied"}


def test_what_was_half_written_counts_as_not_asked(tmp_path: Path) -> None:
    keep(tmp_path, 1, {"north": told()})
    (tmp_path / "evaluations" / "round-0001.json").write_text('{"round": 1, "si')

    assert judged(tmp_path, 1) is None


def test_the_sites_are_asked_for_the_very_model_and_the_log_tells_who_answered(
    tmp_path: Path,
) -> None:
    folder, asked, notes = submit(tmp_path, RUN), list[Task](), list[dict[str, Any]]()

    def ask(task: Task) -> Iterator[Answer]:
        asked.append(task)
        yield answer("north", told())

    def note(event: str, **facts: Any) -> None:
        notes.append({"event": event, **facts})

    state = ServerState(round=2, weights={}, step={})
    evaluate(Folder(path=folder.path), state, {"north": 40, "south": 40}, ask, note)

    assert [(task.round, task.evaluate) for task in asked] == [(2, True)]
    assert [(one["site"], one["refused"]) for one in notes] == [
        ("north", ""),
        ("south", "it did not answer in time"),
    ]
    assert judged(folder.path, 2) is not None
