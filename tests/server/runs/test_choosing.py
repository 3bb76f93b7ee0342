"""A federation publishes its best round: sites over a real line say which that is."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from puppet import Answering, moved, playing, willing
from safetensors.torch import load_file
from served import Folders, enrolled, federated, make_study, served, until

from confrere_client.daemon.fleet import Incoming, Line
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.finetune import Finetune
from confrere_common.model import first_weights
from confrere_common.secagg.section import SecureAggregation
from confrere_common.validated import read_validation, told_choice, unchosen, validation_text
from confrere_common.wire import answer_records, read_task
from confrere_server.membership.workspace import Workspace
from confrere_server.runs import conduct
from confrere_server.runs.choosing import course_of, heard_of
from confrere_server.runs.queue import Folder, submit

ROUNDS = 6

PEAK = {1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6, 6: 0.5}
"""Round -> a score: best at round 2."""

Scores = Mapping[int, float | str]
"""What a site's validation says of a round; or by what code it refuses."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "PROPOSE_EVERY_S", 0.2)


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    return make_study(tmp_path / "study")


def fine_tuning(patience: int | None = 2, **changes: Any) -> Run:
    run = federated(rounds=ROUNDS, min_sites=2, quorum=1.0)
    finetune = Finetune(classes=("a", "b"), patience=patience, **changes)
    return replace(run, stage="finetune", finetune=finetune)


class Hospital:
    """A site over a real line that trains as asked, and validates as it was told to."""

    def __init__(self, workspace: Workspace, name: str, scores: Scores) -> None:
        self.site: SiteFolder = enrolled(workspace, workspace.folder.parent / name, name)
        self.scores = scores
        self.asked: list[tuple[str, int]] = []
        """Purpose and round of every task."""

    def answer(self, line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            return willing(self.site)(line, incoming)
        task = read_task(line.fetch(incoming))
        self.asked.append((task.purpose, task.round))
        return answer_records(self.said(task))

    def said(self, task: Task) -> Answer:
        name = self.site.config.site
        if not task.evaluate:
            return moved(name, task, 0.25)
        said = self.scores.get(task.round, "denied") if task.part == "val" else "denied"
        return said_of(name, task, said)

    def rounds(self, purpose: str) -> list[int]:
        return [round for kind, round in self.asked if kind == purpose]


def said_of(name: str, task: Task, said: float | str) -> Answer:
    if isinstance(said, str):
        return Refusal(site=name, round=task.round, reason=said)
    text = validation_text(said, 20, 10)
    return Update(site=name, round=task.round, delta={}, images=7, description=text)


@contextmanager
def at_work(*hospitals: Hospital) -> Iterator[None]:
    with ExitStack() as stack:
        for one in hospitals:
            answer: Answering = one.answer
            stack.enter_context(playing(one.site, answer))
        yield


def carried_out(study: Workspace, run: Run, **scores: Scores) -> tuple[Folder, list[Hospital]]:
    with served(study):
        hospitals = [Hospital(study, name, said) for name, said in scores.items()]
        folder = submit(study.runs, run)
        with at_work(*hospitals):
            until(lambda: folder.standing.state in ("done", "failed"), 60)
    assert folder.standing.state == "done", folder.standing.why
    return folder, hospitals


def published_round(folder: Folder) -> float:
    """Return the round whose weights were published: each moves every weight by a quarter."""
    fresh = first_weights(folder.order.parsed(), 0, {})
    found = load_file(folder.path / "task.safetensors")
    moves = [(found[name] - tensor).flatten() / 0.25 for name, tensor in fresh.items()]
    every = torch.cat(moves)
    assert torch.allclose(every, every[0], atol=1e-3)
    return round(float(every[0]), 2)


def released(folder: Folder) -> dict[str, Any]:
    release: dict[str, Any] = json.loads((folder.path / "release.json").read_bytes())["release"]
    return release


def test_training_ends_when_patience_does_and_the_best_round_is_published(
    study: Workspace,
) -> None:
    folder, (north, south) = carried_out(study, fine_tuning(), north=PEAK, south=PEAK)

    assert published_round(folder) == 2
    assert north.rounds("round") == south.rounds("round") == [1, 2, 3, 4]
    assert north.rounds("validation") == [1, 2, 3, 4]
    assert (released(folder)["rounds"], released(folder)["best_round"]) == (4, 2)
    assert folder.standing.round == 4
    assert folder.standing.why == (
        "of 4 rounds, number 2 was best on validation patients, and is published"
    )
    assert course_of(folder).scores == {n: PEAK[n] for n in (1, 2, 3, 4)}
    assert "chosen" in Folders(study).events()


def test_what_is_evaluated_at_the_end_is_the_round_that_is_published(study: Workspace) -> None:
    """Sites approved one evaluation after the last round: it is asked for as that."""
    folder, (north, _) = carried_out(study, fine_tuning(), north=PEAK, south=PEAK)

    (found,) = json.loads((folder.path / "evaluation.json").read_bytes())
    assert north.rounds("evaluation") == [ROUNDS]
    assert found["round"] == 2


def test_without_patience_all_rounds_are_held_and_the_best_is_published(study: Workspace) -> None:
    folder, (north, _) = carried_out(study, fine_tuning(None), north=PEAK, south=PEAK)

    assert published_round(folder) == 2
    assert north.rounds("round") == north.rounds("validation") == [1, 2, 3, 4, 5, 6]
    assert (released(folder)["rounds"], released(folder)["best_round"]) == (6, 2)


def test_the_last_round_may_be_the_best(study: Workspace) -> None:
    rises = {round: round / 10 for round in range(1, ROUNDS + 1)}

    folder, _ = carried_out(study, fine_tuning(), north=rises, south=rises)

    assert published_round(folder) == ROUNDS
    assert released(folder)["best_round"] == ROUNDS


def test_a_site_that_sends_none_is_asked_once_and_costs_the_others_nothing(
    study: Workspace,
) -> None:
    few = dict.fromkeys(PEAK, "nothing-to-score")

    folder, (_, south) = carried_out(study, fine_tuning(), north=PEAK, south=few)

    assert published_round(folder) == 2
    assert south.rounds("validation") == [1]
    assert course_of(folder).heard[1] == {"north": (0.5, 7), "south": "nothing-to-score"}


def test_where_no_site_sends_any_the_last_round_is_published_and_nobody_is_asked_again(
    study: Workspace,
) -> None:
    few = dict.fromkeys(PEAK, "nothing-to-score")

    folder, (north, _) = carried_out(study, fine_tuning(1), north=few, south=few)

    assert published_round(folder) == ROUNDS
    assert north.rounds("validation") == [1]
    assert "best_round" not in released(folder)


@pytest.mark.parametrize("changes", [{"head": "local"}, {"evaluation": None}])
def test_where_no_round_is_chosen_no_site_is_asked_for_a_score(
    study: Workspace, changes: dict[str, Any]
) -> None:
    folder, (north, _) = carried_out(study, fine_tuning(1, **changes), north=PEAK, south=PEAK)

    assert north.rounds("validation") == []
    assert north.rounds("round") == [*range(1, ROUNDS + 1)]
    assert "best_round" not in released(folder)


def test_a_server_that_starts_again_knows_the_best_round(study: Workspace) -> None:
    with served(study):
        hospitals = [Hospital(study, name, PEAK) for name in ("north", "south")]
        folder = submit(study.runs, fine_tuning())
        with at_work(*hospitals):
            until(lambda: course_of(folder).heard.keys() >= {1, 2, 3})
    assert folder.standing.state not in ("done", "failed")
    for one in hospitals:
        one.scores = {**PEAK, 2: 0.0}  # it is not asked again of what it told

    with served(study), at_work(*hospitals):
        until(lambda: folder.standing.state in ("done", "failed"), 60)

    assert folder.standing.state == "done", folder.standing.why
    assert published_round(folder) == 2
    # A round that the first server's end cut off is void, and its number spent.
    assert hospitals[0].rounds("validation")[-1] in (4, 5)
    assert hospitals[0].rounds("validation").count(2) == 1


TASK = Task(run="{}", round=1, seed=0, weights={}, evaluate=True, part="val")


def test_what_a_site_says_is_believed_only_if_sound() -> None:
    run = fine_tuning()
    few = Update(site="few", round=1, delta={}, images=7, description=validation_text(0.9, 20, 5))
    texts = {"odd": '{"score": 2.0, "images": 20, "smallest": 10}', "none": "", "text": "[]"}
    answers: list[Answer] = [
        said_of("sound", TASK, 0.9),
        said_of("stranger", TASK, 0.1),
        few,
        *(Update(site=s, round=1, delta={}, images=7, description=t) for s, t in texts.items()),
    ]

    said = heard_of(run, dict.fromkeys(["sound", "few", "silent", *texts], 15), answers)

    assert said["sound"] == (0.9, 15)  # it names 20 images, and counts for what it enrolled with
    assert said["silent"] == "it did not answer in time"
    assert said["few"] == (
        "its score was left out: it is of 5 patients or more; the run asks for 10."
    )
    for site in texts:
        assert str(said[site]).startswith("its score was left out: what came is no score")
    assert "stranger" not in said


@pytest.mark.parametrize("score", [0.0, 1.0, 0.123])
def test_a_score_comes_back_as_it_left(score: float) -> None:
    assert read_validation(validation_text(score, 12, 10), 10) == (score, 12)


def test_what_becomes_of_the_rounds_is_said_before_the_first() -> None:
    run = fine_tuning(7)
    private = replace(run, finetune=replace(run.finetune, head="local"))  # type: ignore[type-var]

    assert unchosen(run) == ""
    assert told_choice(run).startswith("Training ends after 7 rounds without a better one, and")
    assert unchosen(private) == "local"
    assert told_choice(private).endswith("finetune.patience (7) is unused.")
    assert told_choice(federated()) == ""


def test_secure_aggregation_hides_updates_and_leaves_the_choice_as_it_is() -> None:
    """What sites tell of scores goes beside the masked sum, as counts do."""
    assert unchosen(replace(fine_tuning(), secure_aggregation=SecureAggregation())) == ""
