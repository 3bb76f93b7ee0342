"""A run that trains nothing, in a hospital's worker: counts lie in the outbox, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from described import describing_run
from flwr.app import RecordDict
from scored import told
from served import enrolled, make_study, served

from confrere_client.daemon.errand import Errand, errand_key, spool
from confrere_client.daemon.outbox import Outbox, digest_of_update
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.describe import MOST_TEXT, Describe, read_description
from confrere_common.exchange import Task, Update
from confrere_common.loading import dump
from confrere_common.marks import read_marks
from confrere_common.wire import answer_records, read_answer

KNOBS = {"images": 48, "patients": 24, "sites": 1, "image_px": 16}
ASKED = Describe(labels=("ill", "well"))


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    with served(make_study(tmp_path / "study")) as server:
        found = enrolled(server.workspace, tmp_path / "site", "north", "{min_images: 4}")
    add(found.folder, "ward", "", source="phantom", knobs=KNOBS)
    return found


def errand(site: SiteFolder, run_id: str = "run-1", **asked: Any) -> Errand:
    run = describing_run(describe={"labels": ["ill", "well"], **asked})
    task = Task(run=dump(run), round=1, seed=0, weights={})
    return spool(site.folder / "spool", run_id, task, errand_key(run_id, task))


def kept(site: SiteFolder, asked: Errand) -> Update:
    update = Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key)
    assert isinstance(update, Update)
    return update


def test_counts_lie_in_the_outbox(site: SiteFolder) -> None:
    asked = errand(site)

    said = told(site, asked)

    update = kept(site, asked)
    assert said == {"errand": asked.key, "done": True}
    assert update.delta == {}
    assert update.metrics == {}
    assert update.images == 48
    assert read_description(update.description, ASKED).patients == 24


def test_they_cross_the_wire_and_are_what_the_audit_log_names(site: SiteFolder) -> None:
    asked = errand(site)
    told(site, asked)
    update = kept(site, asked)

    records: RecordDict = answer_records(update)

    assert read_answer(records) == update
    assert digest_of_update(update) != digest_of_update(replace(update, description="x"))


def test_no_hash_leaves_unless_run_and_policy_both_let_it(site: SiteFolder) -> None:
    asked = errand(site, duplicates=True)
    told(site, asked)

    assert kept(site, asked).marks == b""

    site.policy.write_text("{min_images: 4, duplicates: true}")
    unasked = errand(site)
    told(site, unasked)

    assert kept(site, unasked).marks == b""


def test_hashes_lie_in_the_outbox_and_those_of_two_runs_cannot_be_linked(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, duplicates: true}")
    found = []
    for run_id in ("run-1", "run-2"):
        asked = errand(site, run_id, duplicates=True)
        told(site, asked)
        update = kept(site, asked)
        found.append({*read_marks(update.marks, update.images).marks})
        assert digest_of_update(update) != digest_of_update(replace(update, marks=b""))
        assert read_answer(answer_records(update)) == update

    assert len(found[0]) == len(found[1]) == 48
    assert not found[0] & found[1]


def test_the_policy_s_bytes_hold_for_hashes_too(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, duplicates: true, max_bytes_per_round: 65900}")
    asked = errand(site, duplicates=True)

    told(site, asked)

    assert 0 < len(kept(site, asked).marks) <= 65_900 - MOST_TEXT


def test_the_hospital_s_own_limit_holds(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, min_cell: 25}")

    said = told(site, errand(site))

    assert said["refused"] == "too-few-patients"
