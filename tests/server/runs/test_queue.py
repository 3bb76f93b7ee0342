"""Runs on the disk: queued in order, found by how their names begin, stopped and resumed."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from served import federated

from confrere_common.errors import ConfigError
from confrere_common.loading import dump
from confrere_server.runs.queue import Folder, Standing, all_runs, find_run, next_run, submit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def queued(runs: Path, minute: int = 0, name: str = "tiny", warm: bytes = b"") -> Folder:
    run = replace(federated(), name=name)
    return submit(runs, run, warm=warm, now=NOW + timedelta(minutes=minute))


def ended(folder: Folder, state: str) -> None:
    folder.stand(replace(folder.standing, state=state))  # type: ignore[arg-type]


def test_a_run_is_read_as_it_was_submitted(tmp_path: Path) -> None:
    folder = queued(tmp_path)

    order = folder.order
    assert order.id == folder.path.name
    assert order.id.startswith("tiny-20260301-120000-")
    assert dump(order.parsed()) == dump(federated()) == order.run
    assert (folder.standing.state, folder.standing.rounds) == ("queued", 2)


def test_equal_runs_have_equal_digests_and_a_warm_start_another(tmp_path: Path) -> None:
    one, two = queued(tmp_path).order, queued(tmp_path).order
    warm = queued(tmp_path, warm=b"weights")

    assert one.id != two.id
    assert one.digest == two.digest != warm.order.digest
    assert (warm.path / "warm.safetensors").read_bytes() == b"weights"


def test_a_long_name_fits_a_folder_and_a_proposal(tmp_path: Path) -> None:
    assert len(queued(tmp_path, name="x" * 64).path.name) <= 64


def test_the_oldest_open_run_is_next(tmp_path: Path) -> None:
    late, early = queued(tmp_path, 5), queued(tmp_path, 1)

    assert next_run(tmp_path) == early
    for state in ("done", "failed", "stopped"):
        ended(early, state)
        assert next_run(tmp_path) == late
    ended(late, "training")
    assert next_run(tmp_path) == late
    ended(late, "done")
    assert next_run(tmp_path) is None
    assert [folder.path for folder in all_runs(tmp_path)] == [early.path, late.path]
    assert next_run(tmp_path / "none") is None


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_run_that_shall_be_resumed_is_queued_again(tmp_path: Path, state: str) -> None:
    folder = queued(tmp_path)
    ended(folder, state)

    folder.ask_for("resume")

    assert next_run(tmp_path) == folder
    assert folder.standing.state == "queued"
    assert folder.wish == ""


def test_a_run_that_is_done_cannot_be_resumed(tmp_path: Path) -> None:
    folder = queued(tmp_path)
    ended(folder, "done")
    folder.ask_for("resume")

    assert next_run(tmp_path) is None


def test_a_wish_is_one_of_two_words(tmp_path: Path) -> None:
    folder = queued(tmp_path)
    said = []
    for text in ("stop", "resume\n", "rm -rf /", ""):
        (folder.path / "wish").write_text(text)
        said.append(folder.wish)

    assert said == ["stop", "resume", "", ""]
    folder.ask_for("")
    folder.ask_for("")
    assert not (folder.path / "wish").exists()


def test_a_run_is_found_by_how_its_name_begins(tmp_path: Path) -> None:
    one, two = queued(tmp_path, name="derm"), queued(tmp_path, name="chest")

    assert find_run(tmp_path, "derm") == one
    assert find_run(tmp_path, two.path.name) == two
    for odd in ("", "eyes", "../derm", "*"):
        with pytest.raises(ConfigError, match="unknown run"):
            find_run(tmp_path, odd)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}', "\x00"])
def test_a_damaged_order_is_told_and_stops_no_other_run(tmp_path: Path, text: str) -> None:
    bad, good = queued(tmp_path, 0), queued(tmp_path, 1)
    (bad.path / "order.json").write_text(text)

    with pytest.raises(ConfigError, match="cannot be read"):
        _ = bad.order
    assert {folder.path for folder in all_runs(tmp_path)} == {bad.path, good.path}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"paces_s": 3}', '{"paces_s": [], "odd": 1}', '"x"', "null"],
)
def test_a_damaged_state_is_told_and_what_is_saved_counts(tmp_path: Path, text: str) -> None:
    folder = queued(tmp_path)
    (folder.path / "state.json").write_text(text)

    assert "damaged" in folder.standing.why
    assert folder.standing.state == "queued"


def test_a_standing_comes_back_as_it_was(tmp_path: Path) -> None:
    standing = Standing(
        state="training", round=1, rounds=2, sites={"n": {"round": 2}}, paces_s=(1.5, 2.0),
        bytes_up=7, loss=0.5, eta_s=3.0,
    )  # fmt: skip
    folder = Folder(path=tmp_path)
    assert folder.standing == Standing()

    folder.stand(standing)

    assert folder.standing == standing
    assert json.loads((tmp_path / "state.json").read_text())["state"] == "training"
