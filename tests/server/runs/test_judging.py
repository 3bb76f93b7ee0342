"""What sites say of a model's scores: heard once, believed only if sound, pooled with reasons."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tuning

from confrere_common.config import Run
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.judged import evaluation_text
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

ODD = tuning("anomaly", knobs={"normal": "b"}, classes=["a", "b"])

SEARCHED = tuning("retrieval", classes=["a", "b"])

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


def of_one_tally(positives: int, negatives: int = 30) -> dict[str, Any]:
    cells = {"positives": [[100, 200, positives]], "negatives": [[300, 400, negatives]]}
    return {"classes": 2, "smallest": 10, "tallies": [{"kind": 0, **cells}]}


@pytest.mark.parametrize("run", [RUN, MASKS])
def test_a_site_that_tells_of_far_more_images_than_it_has_is_left_out(run: Run) -> None:
    """One that told of a thousand million images was all that a pooled figure told."""
    enrolled = {"north": 60, "south": 60, "west": 60}
    told = {"north": of_one_tally(30), "south": of_one_tally(30), "west": of_one_tally(10**9 - 1)}

    said = heard_of(run, enrolled, [answer(site, plain) for site, plain in told.items()])
    honest = {site: plain for site, plain in said.items() if site != "west"}

    assert said["west"] == (
        "its evaluation was left out: it tells of 1000000029 images and enrolled with 60; at most "
        "10 times as many are believed."
    )
    beside, alone = put_together(said, run), put_together(honest, run)
    (figure,) = {"auc", "dice"} & beside.keys()
    assert beside[figure] == alone[figure]


@pytest.mark.parametrize(("images", "marked"), [(60, False), (61, True), (600, True)])
def test_a_part_test_that_is_larger_than_what_is_trained_on_counts_whole_and_is_marked(
    images: int, marked: bool
) -> None:
    plain = of_one_tally(30, images - 30)

    found = within(plain, 60)

    assert found["tallies"] == plain["tallies"]
    assert (found.get("enrolled") == 60) == marked
    (site,) = put_together({"north": found}, RUN)["sites"].values()
    assert site["images"] == images
    assert ("enrolled" in site) == marked


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (ODD, "its evaluation was left out: it tells of another class than the normal one."),
        (SEARCHED, "its evaluation was left out: it tells of searches for a class by images of "
         "others."),
    ],
)  # fmt: skip
def test_counts_that_no_site_makes_of_the_task_are_left_out(run: Run, said: str) -> None:
    found = heard_of(run, {"north": 60}, [answer("north", of_one_tally(30))])

    assert found["north"] == said


def test_queries_of_all_classes_together_are_held_against_what_a_site_has() -> None:
    each = [{"kind": k, "positives": [[0, 9, 200]], "negatives": []} for k in (0, 1)]
    plain = {"classes": 2, "smallest": 10, "tallies": each}

    few, many = (
        heard_of(SEARCHED, {"north": enrolled}, [answer("north", plain)])["north"]
        for enrolled in (39, 40)
    )

    assert str(few).startswith("its evaluation was left out: it tells of 400 images")
    assert many == {**plain, "enrolled": 40}


def test_how_normal_images_look_is_pooled_without_a_calibration() -> None:
    found, likely = (put_together({"north": told()}, run) for run in (ODD, RUN))

    (one,), (other,) = found["classes"], likely["classes"]
    assert one["name"] == "b"
    assert one["auc"] == other["auc"] == found["auc"] == pytest.approx(1.0)
    assert other.keys() - one.keys() == {"calibration_error", "confidence", "frequency"}


def test_a_site_that_enrolled_with_nothing_counts_for_nothing() -> None:
    said = heard_of(RUN, {"north": 0}, [answer("north", told())])

    assert said["north"] == (
        "its evaluation was left out: it tells of 40 images and enrolled with 0; at most 10 times "
        "as many are believed."
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
