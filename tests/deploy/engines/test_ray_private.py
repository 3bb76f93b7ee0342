"""A private run over Ray: each site pays from a ledger of its own, whichever process answers."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from private_steps import private_run
from tiny_jobs import noise_job

from confrere_client.data.catalog import catalog_of
from confrere_client.privacy.budget import Ledger
from confrere_client.source import Record
from confrere_client.work import answer
from confrere_common.exchange import Refusal, Task, Update
from confrere_deploy.engine import Job
from confrere_deploy.engines import ray
from confrere_deploy.engines.inline import site_folder


def private_job(folder: Path) -> Job:
    job = noise_job(folder)
    records = [
        Record(name=str(n), patient=str(n // 2), decode=lambda: np.zeros((1, 1, 1), np.uint8))
        for n in range(24)
    ]
    images = replace(job.images, catalog=catalog_of(records))
    return replace(job, run=private_run("simmim"), images=images)


def answered(job: Job, number: int, round: int) -> Update | Refusal:
    """Return what the process that plays site *number* answers: nothing is kept between calls."""
    ray._open.cache_clear()
    desk = ray.find_desk(ray._pack(job), SimpleNamespace(node_config={"partition-id": number}))
    state = job.start()
    return answer(Task(run=job.text, round=round, seed=0, weights=state.weights), desk)


def test_each_site_is_charged_in_its_own_folder_for_its_own_patients(tmp_path: Path) -> None:
    job = private_job(tmp_path)

    said = [answered(job, 0, 1), answered(job, 0, 2), answered(job, 1, 1)]

    assert [type(one) for one in said] == [Update] * 3, said
    books = [Ledger(path=site_folder(tmp_path, s) / "ledger.sqlite") for s in job.sites]
    spent = [[row.entry for row in book.rows() if hasattr(row.entry, "rate")] for book in books]
    assert [len(entries) for entries in spent] == [2, 1]
    assert {entry.data_set for entry in spent[0]} == {"north"}
    # Five patients at one site and seven at the other: each is drawn at a rate of its own.
    assert spent[0][0].rate > spent[1][0].rate


def test_a_run_that_is_not_private_has_no_account(tmp_path: Path) -> None:
    job = noise_job(tmp_path)

    desk = ray.find_desk(ray._pack(job), SimpleNamespace(node_config={"partition-id": 0}))

    assert desk.account is None
    assert np.array_equal(desk.images.rows, np.arange(10))
    assert torch.is_tensor(desk.images.batch(np.array([0])))
