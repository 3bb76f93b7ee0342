"""A run that trains nothing over a real line: what sites tell is kept, sealed and fetched."""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from described import describing_run, text_of
from flwr.app import RecordDict
from puppet import Answering, playing
from served import Folders, enrolled, make_study, served, until

from confrere_client.daemon.fleet import Incoming, Line
from confrere_client.hospital.site import SiteFolder
from confrere_common.exchange import Update
from confrere_common.marks import (
    MARK_BYTES,
    MOST_MARKS,
    mark_of,
    marks_among,
    packed_marks,
    read_marks,
    salt_of,
)
from confrere_common.proposal import Standing
from confrere_common.wire import answer_records, standing_records
from confrere_deploy.federation.fetching import fetch, verify_release
from confrere_server.membership.workspace import Workspace
from confrere_server.runs import conduct
from confrere_server.runs.queue import Folder, submit


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "PROPOSE_EVERY_S", 0.2)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Workspace]:
    workspace = make_study(tmp_path / "study")
    with served(workspace):
        yield workspace


def telling(site: SiteFolder, text: str, marks: bytes = b"") -> Answering:
    name, images = site.config.site, max(90, len(marks) // MARK_BYTES)

    def answer(line: Line, incoming: Incoming) -> RecordDict:
        line.fetch(incoming)
        if incoming.kind == "query":
            said = Standing(site=name, state="approved", code="", images=images)
            return standing_records(said)
        said = Update(site=name, round=1, delta={}, images=images, description=text, marks=marks)
        return answer_records(said)

    return answer


def ended(
    workspace: Workspace, texts: dict[str, str], marks: dict[str, bytes] | None = None
) -> Folder:
    federation = {"rounds": 1, "min_sites": len(texts), "quorum": 0.5, "deadline_s": 60}
    asked = {"labels": ["ill", "well"], "duplicates": marks is not None}
    folder = submit(workspace.runs, describing_run(federation=federation, describe=asked))
    with ExitStack() as stack:
        for name, text in texts.items():
            site = enrolled(workspace, workspace.folder.parent / name, name)
            stack.enter_context(playing(site, telling(site, text, (marks or {}).get(name, b""))))
        until(lambda: folder.standing.state in ("done", "failed"), 25)
    return folder


def test_what_sites_told_is_sealed_fetched_and_shown(study: Workspace, tmp_path: Path) -> None:
    texts = {"north": text_of(60), "south": text_of(40, mean=0.9), "west": "Mueller, Anna"}

    folder = ended(study, texts)
    paths = fetch(study, folder, tmp_path / "out")

    there = {path.name: path for path in paths}
    report = json.loads(there["report.json"].read_text())
    said = verify_release(tmp_path / "out", there["coordinator.pub"])
    told = json.loads(there["description.json"].read_text())["sites"]
    assert folder.standing.state == "done"
    assert told == {name: json.loads(texts[name]) for name in ("north", "south")}
    assert said["files"].keys() == {"description.json", "rounds.json"}
    assert report["kind"] == "describe"
    assert report["gaps"][0]["measure"] == "mean"
    assert report["refused"].keys() == {"west"}
    assert "<svg" in there["report.html"].read_text()
    assert all("Mueller" not in path.read_text() for path in paths)


def packed(numbers: range) -> bytes:
    found = (mark_of(f"{number:032x}", salt_of("run")) for number in numbers)
    told = marks_among(found, MOST_MARKS)
    assert told is not None
    return packed_marks(told)


def test_as_many_marks_as_may_leave_are_counted_and_then_lie_nowhere(
    study: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    marks = {"north": packed(range(MOST_MARKS)), "south": packed(range(170, 220))}
    texts = {"north": text_of(60), "south": text_of(40), "west": text_of(30)}

    folder = ended(study, texts, marks)
    paths = fetch(study, folder, tmp_path / "out")

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    everywhere = {**Folders(study).contents(), **{p.name: p.read_bytes() for p in paths}}
    everywhere["log"] = caplog.text.encode()
    few = read_marks(marks["south"], 90).marks
    assert folder.standing.state == "done"
    assert [(p["one"], p["two"], p["images"]) for p in report["shared"]] == [("north", "south", 50)]
    assert any("'west' told no hashes" in said for said in report["warnings"])
    for where, content in everywhere.items():
        assert not any(form in content for m in few for form in (m, m.hex().encode())), where


def test_a_run_of_which_nothing_sound_is_told_fails_with_what_was_said(study: Workspace) -> None:
    folder = ended(study, {"north": "", "south": "[]"})

    assert folder.standing.state == "failed"
    assert "its description was left out" in folder.standing.why
