"""All sites in this process, one after the other, on one model: fast, exact, resumable."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from confrere_client.finetune.lesson import lesson_of
from confrere_client.masked.masked_round import NotesInMemory, Seat
from confrere_client.privacy.budget import Ledger
from confrere_client.privacy.private_round import Account
from confrere_client.state import Keepsake
from confrere_client.train import Trainer
from confrere_client.work import Desk, answer, answer_masked
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.privacy.accounting import Budget
from confrere_common.privacy.settings import Privacy
from confrere_common.secagg.messages import Reply, Request
from confrere_deploy.engine import Job
from confrere_deploy.study.simulated_roster import draw_roster
from confrere_server.store import ServerState


def inline(job: Job) -> ServerState:
    """Carry the job's remaining rounds by plain calls."""
    desks = {site: desk_of(job, site) for site in job.sites}
    veil = None
    if job.run.secure_aggregation is not None:
        roster = draw_roster(job.sites)
        # What a site remembers dies with this process, as its keys do: a resumed round is new.
        seats = {site: Seat(member=roster.member(site), notes=NotesInMemory()) for site in desks}
        desks = {site: replace(desk, seat=seats[site]) for site, desk in desks.items()}
        veil = roster.veil(partial(_carried, desks))

    def ask(sites: Sequence[str], task: Task) -> Iterator[Answer]:
        for site in sites:
            yield answer(task, desks[site])

    return job.carry(ask, veil)


def _carried(
    desks: Mapping[str, Desk], requests: Mapping[str, Request], task: Task | None
) -> Iterator[tuple[str, Reply | Refusal]]:
    for site, request in requests.items():
        yield site, answer_masked(request, task, desks[site])


def desk_of(job: Job, site: str) -> Desk:
    """Return what *site* works with, its own state in the job's folder."""
    keep = job.run.federation.keep_checkpoints + 1  # one more: the server may step back a round
    return Desk(
        site=site,
        images=lesson_of(job.run, job.images, job.sites[site]),
        keepsake=Keepsake(
            folder=site_folder(job.folder, site), digest=job.digest, keep=keep, durable=False
        ),
        trainer=trainer_for,
        watch=partial(job.watch, site),
        account=account_of(job, site),
    )


def account_of(job: Job, site: str) -> Account | None:
    """Return what pays for a simulated site's private rounds; None in a run that is not private."""
    asked = job.run.privacy
    if asked is None:
        return None
    return site_account(asked, job.folder, site, job.images.catalog.patients[job.sites[site]])


def site_account(asked: Privacy, folder: Path, site: str, owners_N: NDArray[np.int64]) -> Account:
    """Return a simulated site's account, its ledger in its own folder, its budget the run's."""
    return Account(
        data_set=site,
        study="simulation",
        owners_N=owners_N,
        ledger=Ledger(path=site_folder(folder, site) / "ledger.sqlite"),
        budget=Budget(epsilon=asked.epsilon, delta=asked.delta),
    )


def site_folder(folder: Path, site: str) -> Path:
    """Return where a simulated site keeps its own state, whatever characters its name has."""
    return folder / "sites" / f"site-{quote(site, safe='')}"


@lru_cache(maxsize=1)
def trainer_for(text: str) -> Trainer:
    """Return the process's one trainer; another run replaces it."""
    return Trainer(parse_run(json.loads(text), COMMON_FAMILIES))
