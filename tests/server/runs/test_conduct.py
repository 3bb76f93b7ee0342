"""A run over a real line: sites that spoil its rounds are suspended, or end it; none holds it."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from puppet import Answering, moved, playing, willing
from served import Folders, enrolled, federated, make_study, served, until

from confrere_client.daemon.fleet import Incoming, Line
from confrere_client.hospital.site import SiteFolder
from confrere_common.codes import CODES, code_of
from confrere_common.config import Run
from confrere_common.errors import DataError
from confrere_common.exchange import Refusal, Update
from confrere_common.finetune import Finetune
from confrere_common.preparation import Preparation, must_be_prepared
from confrere_common.proposal import Standing
from confrere_common.secagg.section import SecureAggregation
from confrere_common.wire import answer_records, read_task, standing_records, with_witness
from confrere_server.membership.workspace import Workspace
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs import conduct, outcome
from confrere_server.runs.queue import Folder, submit
from confrere_server.store import newest_state

ALL = {"quorum": 1.0, "min_sites": 2, "rounds": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "PROPOSE_EVERY_S", 0.2)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Workspace]:
    workspace = make_study(tmp_path / "study")
    with served(workspace):
        yield workspace


def joined(workspace: Workspace, name: str) -> SiteFolder:
    return enrolled(workspace, workspace.folder.parent / name, name)


def answering(site: SiteFolder, change: Any) -> Answering:
    """Approve every plan, and answer each task with what *change* makes of a sound update."""
    sound, name = willing(site), site.config.site

    def answer(line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            return sound(line, incoming)
        made = change(moved(name, read_task(line.fetch(incoming)), 0.25))
        return None if made is None else answer_records(made)

    return answer


def ended(
    workspace: Workspace, answers: list[tuple[SiteFolder, Answering]], **federation: Any
) -> Folder:
    folder = submit(workspace.runs, federated(**federation))
    with ExitStack() as stack:
        for site, answer in answers:
            stack.enter_context(playing(site, answer))
        until(lambda: folder.standing.state in ("done", "failed"), 25)
    return folder


def not_a_number(update: Update) -> Update:
    return replace(update, delta={n: t * torch.nan for n, t in update.delta.items()})


def test_a_site_whose_rounds_are_all_void_is_suspended_and_the_run_goes_on(
    study: Workspace,
) -> None:
    sites = [joined(study, name) for name in ("bad", "north", "south")]
    answers = [willing(site) for site in sites]
    answers[0] = answering(sites[0], not_a_number)

    folder = ended(study, list(zip(sites, answers, strict=True)), **ALL)

    assert folder.standing.state == "done", folder.standing.why
    state = newest_state(folder.path / "checkpoints", digest=folder.order.digest)
    assert state is not None
    assert state.repute.suspended == ("bad",)
    assert [site.site for site in state.records[-1].sites] == ["north", "south"]
    assert Folders(study).events().count("void") == 3


def test_a_site_that_is_cleared_takes_part_again_in_the_run_that_needed_it(
    study: Workspace,
) -> None:
    sites = [joined(study, name) for name in ("bad", "north")]
    mended: list[bool] = []
    bad = answering(sites[0], lambda update: update if mended else not_a_number(update))
    folder = submit(study.runs, federated(**ALL))

    with playing(sites[0], bad), playing(sites[1], willing(sites[1])):
        until(lambda: folder.standing.state == "failed", 25)
        why = folder.standing.why
        mended.append(True)
        folder.clear("bad")
        folder.ask_for("resume")
        until(lambda: folder.standing.state == "done", 25)

    assert "clear the site" in why
    state = newest_state(folder.path / "checkpoints", digest=folder.order.digest)
    assert state is not None
    assert state.repute.suspended == ()
    assert "cleared" in Folders(study).events()
    assert folder.taken_clearances() == ()


def test_a_site_that_keeps_failing_ends_a_run_that_needs_it(study: Workspace) -> None:
    north, south = joined(study, "north"), joined(study, "south")
    full = answering(
        south, lambda update: Refusal(site="south", round=update.round, reason="disk-full")
    )

    folder = ended(study, [(north, willing(north)), (south, full)], **ALL)

    assert folder.standing.state == "failed"
    assert "5 rounds in succession" in folder.standing.why
    assert "south: disk-full" in folder.standing.why
    assert "north:" not in folder.standing.why


def test_an_update_that_names_other_images_than_the_site_approved_with_is_left_out(
    study: Workspace,
) -> None:
    north, south = joined(study, "north"), joined(study, "south")
    more = answering(south, lambda update: replace(update, images=8))

    folder = ended(
        study, [(north, willing(north)), (south, more)], quorum=0.5, rounds=1, min_sites=2
    )

    rounds = json.loads((folder.path / "rounds.json").read_text())
    assert [site["refused"] for site in rounds[0]["sites"]] == [
        "",
        "its update was left out: it names 8 images; it enrolled with 7",
    ]


def test_a_site_that_hangs_makes_no_pace_longer_though_it_is_the_first_by_name(
    study: Workspace,
) -> None:
    hung, north = joined(study, "a-hung"), joined(study, "north")
    folder = submit(study.runs, federated(quorum=0.5, rounds=1, min_sites=2, deadline_s=3.0))

    with playing(hung, answering(hung, lambda _: None)), playing(north, willing(north)):
        until(lambda: folder.standing.sites.get("north", {}).get("answered"), 15)
        early = folder.standing.state
        until(lambda: folder.standing.state == "done")

    assert early == "training"
    assert folder.standing.paces_s[0] < 2.0


def test_a_peers_head_is_logged_with_another_standing_and_not_with_each(study: Workspace) -> None:
    site, said = joined(study, "north"), [0]

    def waiting(line: Line, incoming: Incoming) -> RecordDict:
        line.fetch(incoming)
        said[0] += 1
        standing = Standing(site="north", state="waiting", code="not-approved", images=0)
        return with_witness(standing_records(standing), said[0], f"{said[0]:064x}")

    submit(study.runs, federated())
    with playing(site, waiting):
        until(lambda: said[0] >= 4)
        time.sleep(0.3)

    assert Folders(study).events().count("site head") == 1


def record(**refused: str) -> RoundRecord:
    sites = tuple(SiteRecord(site=site, refused=why) for site, why in refused.items())
    return RoundRecord(round=1, sites=sites, bytes_up=0, bytes_down=0, seconds=1.0, void="void")


@pytest.mark.parametrize("code", [outcome.ABSENT, *sorted(outcome.FOR_NOW)])
def test_who_is_away_or_takes_no_part_just_now_spoils_no_round(code: str) -> None:
    assert not outcome.is_spoilt(record(north="", south=code), 1.0)
    assert not outcome.is_spoilt(record(north="disk-full", south=code), 1.0)
    assert not outcome.all_failed(record(south=code), ["south"])


@pytest.mark.parametrize("code", ["not-enough-images", "disk-full", "too-often", "a-new-one"])
def test_who_fails_spoils_the_round_that_needs_it(code: str) -> None:
    assert outcome.is_spoilt(record(north="", south=code), 1.0)
    assert outcome.all_failed(record(south=code), ["south"])


def test_a_site_whose_images_were_prepared_otherwise_fails_no_round() -> None:
    with pytest.raises(DataError) as told:
        must_be_prepared(None, Preparation(image_px=32))

    assert outcome.failed(record(south=code_of(told.value))) == []


def test_codes_for_now_are_codes() -> None:
    assert CODES.keys() >= outcome.FOR_NOW


def refusing(site: SiteFolder) -> Answering:
    """Approve every plan, and decline every step of a masked round."""
    sound = willing(site)

    def answer(line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            return sound(line, incoming)
        line.fetch(incoming)
        return answer_records(Refusal(site=site.config.site, round=0, reason="disk-full"))

    return answer


def test_a_masked_run_without_a_result_releases_nothing_and_learns_no_pace(
    study: Workspace,
) -> None:
    sites = [joined(study, name) for name in ("east", "north", "south")]
    keys = {site.config.site: site.signing_key().public_key() for site in sites}
    roster = {name: key.public_bytes_raw().hex() for name, key in keys.items()}
    run = replace(federated(rounds=2, min_sites=3), secure_aggregation=SecureAggregation())
    folder = submit(study.runs, run, roster=roster)

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(playing(site, refusing(site)))
        until(lambda: folder.standing.state in ("done", "failed"), 25)

    assert folder.standing.state == "failed"
    assert "2 rounds in succession had no result" in folder.standing.why
    assert folder.standing.paces_s == ()
    assert not (folder.path / "release.json").exists()
    assert "closed" not in Folders(study).events()


def without_labels(site: SiteFolder) -> tuple[Answering, list[str]]:
    """Approve, and say to each task that nothing here is marked; give what each one asked."""
    sound, asked = willing(site), list[str]()

    def answer(line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            return sound(line, incoming)
        task = read_task(line.fetch(incoming))
        asked.append(task.purpose)
        code = "nothing-to-score" if task.evaluate else "no-labels"
        return answer_records(Refusal(site=site.config.site, round=task.round, reason=code))

    return answer, asked


def fine_tuning(**federation: Any) -> Run:
    return replace(federated(**federation), stage="finetune", finetune=Finetune(classes=("a", "b")))


def counting(site: SiteFolder) -> Answering:
    """Train as asked, and score a model with counts that are never small."""
    sound, name = willing(site), site.config.site
    cells = {"kind": 1, "positives": [[64, 128, 20]], "negatives": [[0, 64, 20]]}
    plain = {"classes": 2, "smallest": 10, "tallies": [cells]}

    def answer(line: Line, incoming: Incoming) -> RecordDict | None:
        if incoming.kind == "query":
            return sound(line, incoming)
        task = read_task(line.fetch(incoming))
        if not task.evaluate:
            return answer_records(moved(name, task, 0.25))
        said = json.dumps(plain)
        update = Update(site=name, round=task.round, delta={}, images=7, description=said)
        return answer_records(update)

    return answer


def test_a_site_without_labels_is_asked_to_train_once_and_costs_a_run_of_all_sites_nothing(
    study: Workspace,
) -> None:
    bare, north, south = (joined(study, name) for name in ("bare", "north", "south"))
    unlabelled, asked = without_labels(bare)
    folder = submit(study.runs, fine_tuning(quorum=1.0, min_sites=2, rounds=2))

    with (
        playing(bare, unlabelled),
        playing(north, counting(north)),
        playing(south, counting(south)),
    ):
        until(lambda: folder.standing.state in ("done", "failed"), 40)

    assert folder.standing.state == "done", folder.standing.why
    assert asked == ["round", "validation", "evaluation"]
    release = json.loads((folder.path / "release.json").read_bytes())["release"]
    found = json.loads((folder.path / "evaluation.json").read_bytes())
    assert {one["site"]: one["rounds"] for one in release["sites"]} == {"north": 2, "south": 2}
    assert {"encoder.safetensors", "task.safetensors", "evaluation.json"} <= release["files"].keys()
    assert found[-1]["sites"]["bare"] == {"refused": "nothing-to-score"}
    assert found[-1]["classes"][0]["sites"] == ["north", "south"]


def test_where_too_few_sites_have_labels_the_run_ends_and_names_the_others(
    study: Workspace,
) -> None:
    bare, north = joined(study, "bare"), joined(study, "north")
    folder = submit(study.runs, fine_tuning(quorum=1.0, min_sites=2, rounds=2))

    with playing(bare, without_labels(bare)[0]), playing(north, counting(north)):
        until(lambda: folder.standing.state in ("done", "failed"), 40)

    assert folder.standing.state == "failed"
    assert "bare without an image that is marked for the task" in folder.standing.why
