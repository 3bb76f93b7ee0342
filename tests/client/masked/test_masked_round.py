"""A site's machine in a masked round: what it keeps, what it forgets, and what never leaves it."""

import json
import logging
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from masked_rounds import ROSTER, keys_of, member_of, params_of, verifier
from tiny_runs import noise, tiny_run

from confrere_client.app import _answered
from confrere_client.masked.mask_state import Floor
from confrere_client.masked.masked_round import Notebook, NotesInFile, NotesInMemory, Seat
from confrere_client.state import Keepsake
from confrere_client.train import Trainer
from confrere_client.work import Desk, answer, answer_masked
from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.loading import COMMON_FAMILIES, digest, dump, parse_run
from confrere_common.model import build_model, shared_weights
from confrere_common.secagg.messages import Invitation, Roll, Signed, digest_of_run
from confrere_common.weights import weights_digest
from confrere_common.wire import read_reply, request_records, task_records
from confrere_server.unmask import start_talk, sum_of

SITES = ("east", "north", "south")
NAMED = "ward7 of Ms Meier"


@pytest.fixture
def run() -> Run:
    return tiny_run("simclr", secure_aggregation={"clip": 1.0})


def trainer(text: str) -> Trainer:
    return Trainer(parse_run(json.loads(text), COMMON_FAMILIES))


@pytest.fixture
def task(run: Run) -> Task:
    return Task(run=dump(run), round=1, seed=0, weights=shared_weights(build_model(run, 0)))


@pytest.fixture
def keys() -> Any:
    return keys_of(SITES)


@pytest.fixture
def desks(tmp_path: Path, run: Run, keys: Any) -> Mapping[str, Desk]:
    return {
        site: Desk(
            site=site,
            images=noise(6 + place, seed=place),
            keepsake=Keepsake(folder=tmp_path / site, digest=digest(dump(run)), keep=2),
            trainer=trainer,
            seat=Seat(
                member=member_of(keys, site), notes=NotesInFile(tmp_path / site / "masked.json")
            ),
        )
        for place, site in enumerate(SITES)
    }


def params(task: Task, **changes: Any) -> Any:
    plain = {
        "run": digest_of_run(task.run),
        "weights": weights_digest(task.weights),
        "clip": 1.0,
        "weight_max": 8,
    }
    return params_of(SITES, task.weights, **{**plain, **changes})


def test_a_round_of_real_training_over_the_site_s_app_gives_the_plain_mean(
    desks: Mapping[str, Desk], task: Task, keys: Any, run: Run
) -> None:
    def carry(requests: Any, sent: Any) -> Any:
        for site, request in requests.items():
            along = task_records(sent) if sent is not None else None
            records: RecordDict = _answered(request_records(request, along), desks[site])
            yield site, read_reply(records)

    found = sum_of(start_talk(params(task), carry, verifier(keys)), task)

    open_run = dump(replace(run, secure_aggregation=None))
    plain = [answer(replace(task, run=open_run), desk) for desk in desks.values()]
    assert found.images == 6 + 7 + 8
    for name, delta in found.delta.items():
        parts = [one.images * one.delta[name] for one in plain if isinstance(one, Update)]
        assert len(parts) == 3
        assert np.allclose(delta, sum(parts) / 21, atol=1e-6)


def test_an_update_in_the_clear_is_refused_when_the_run_promises_masks(
    desks: Mapping[str, Desk], task: Task
) -> None:
    given = answer(task, desks["north"])

    assert isinstance(given, Refusal)
    assert "in the clear is asked for" in given.reason


def test_a_site_without_keys_refuses_masked_rounds(desks: Mapping[str, Desk], task: Task) -> None:
    given = answer_masked(Invitation(params=params(task)), None, replace(desks["north"], seat=None))

    assert isinstance(given, Refusal)
    assert "no keys for secure aggregation" in given.reason


def test_no_text_of_an_exception_leaves(
    desks: Mapping[str, Desk], task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(NotesInMemory):
        def load(self) -> Notebook:
            raise OSError(2, NAMED, NAMED)

    seat = desks["north"].seat
    assert seat is not None
    desk = replace(desks["north"], seat=replace(seat, notes=Broken()))

    with caplog.at_level(logging.DEBUG):
        given = answer_masked(Invitation(params=params(task)), None, desk)

    assert isinstance(given, Refusal)
    assert "Meier" not in given.reason + caplog.text


def test_what_a_site_keeps_can_be_read_by_its_owner_alone(
    desks: Mapping[str, Desk], task: Task, tmp_path: Path
) -> None:
    answer_masked(Invitation(params=params(task)), None, desks["north"])

    mode = (tmp_path / "north" / "masked.json").stat().st_mode

    assert stat.S_IMODE(mode) == 0o600


def test_what_a_site_keeps_survives_its_process_and_is_forgotten_when_it_refuses(
    desks: Mapping[str, Desk], task: Task, tmp_path: Path
) -> None:
    notes = NotesInFile(tmp_path / "north" / "masked.json")
    signed = answer_masked(Invitation(params=params(task)), None, desks["north"])
    kept = notes.load()

    refusal = answer_masked(Roll(params="00" * 32, adverts=()), None, desks["north"])

    assert isinstance(signed, Signed)
    assert kept.state is not None
    assert len(kept.history) == 1
    assert isinstance(refusal, Refusal)
    assert notes.load() == replace(kept, state=None)
    again = answer_masked(Invitation(params=params(task)), None, desks["north"])
    assert isinstance(again, Refusal)
    assert "it is replayed" in again.reason


def test_a_notebook_that_was_altered_is_refused(tmp_path: Path) -> None:
    notes = NotesInFile(tmp_path / "masked.json")
    notes.save(Notebook())
    raw = notes.path.read_bytes()
    notes.path.write_bytes(raw[:-1])

    with pytest.raises(ExchangeError):
        notes.load()
    notes.path.unlink()
    assert notes.load() == Notebook()


def test_a_hospital_s_own_floor_holds(desks: Mapping[str, Desk], task: Task) -> None:
    seat = desks["north"].seat
    assert seat is not None
    strict = replace(desks["north"], seat=replace(seat, floor=Floor(sites=5)))

    given = answer_masked(Invitation(params=params(task)), None, strict)

    assert isinstance(given, Refusal)
    assert "this site asks at least 5" in given.reason
    assert seat.member.roster == ROSTER
