"""All sites in this process, one after the other, on one model: fast, exact, resumable."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

from confrere_client.data.subset import Subset
from confrere_client.state import Keepsake
from confrere_client.train import Trainer
from confrere_client.work import Desk, answer
from confrere_common.exchange import Answer, Task
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_deploy.engine import Job
from confrere_server.store import ServerState


def inline(job: Job) -> ServerState:
    """Carry the job's remaining rounds by plain calls."""

    def ask(sites: Sequence[str], task: Task) -> Iterator[Answer]:
        for site in sites:
            yield answer(task, desk_of(job, site))

    return job.carry(ask)


def desk_of(job: Job, site: str) -> Desk:
    """Return what *site* works with, its own state in the job's folder."""
    keep = job.run.federation.keep_checkpoints + 1  # one more: the server may step back a round
    return Desk(
        site=site,
        images=Subset(job.images, job.sites[site]),
        keepsake=Keepsake(folder=site_folder(job.folder, site), digest=job.digest, keep=keep),
        trainer=trainer_for,
        watch=partial(job.watch, site),
    )


def site_folder(folder: Path, site: str) -> Path:
    """Return where a simulated site keeps its own state, whatever characters its name has."""
    return folder / "sites" / f"site-{quote(site, safe='')}"


@lru_cache(maxsize=1)
def trainer_for(text: str) -> Trainer:
    """Return the process's one trainer; another run replaces it."""
    return Trainer(parse_run(json.loads(text), COMMON_FAMILIES))
