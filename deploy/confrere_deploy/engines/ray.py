"""Flower's own simulation engine with Ray: the very apps of a deployment, on many cores or GPUs."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.subset import Subset
from confrere_client.masked.masked_round import NotesInFile, Seat
from confrere_client.state import Keepsake
from confrere_client.work import Desk
from confrere_common.privacy.settings import Privacy
from confrere_deploy.engine import Job, needs
from confrere_deploy.engines.inline import site_account, site_folder, trainer_for
from confrere_deploy.study.simulated_roster import SimulatedRoster, draw_roster
from confrere_server.store import ServerState

ROWS = "rows.npz"

Rows: TypeAlias = NDArray[np.int64]

NOBODY: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What a worker process needs to open a site's desk: small, and shipped with every message."""

    pixels: Path
    folder: Path
    names: tuple[str, ...]
    digest: str
    keep: int
    roster: SimulatedRoster | None
    """Keys of all sites, for masked rounds."""

    privacy: Privacy | None
    """What a private run asks: each site's ledger lies in its own folder."""


@needs("ray", "pip install 'confrere[ray]', or use --engine inline", whole=True)
def ray(job: Job) -> ServerState:
    """Carry the job's remaining rounds over Flower and Ray."""
    simulation = _flower()
    parcel = _pack(job)
    found: list[ServerState] = []
    faults: list[BaseException] = []

    # Imported here, as Flower is: only this engine pays for loading them.
    from confrere_client.app import client_app
    from confrere_server.app import ask_over, carry_over, name_nodes, server_app

    def main(grid: Any) -> None:
        try:
            nodes = name_nodes(grid, expected=len(job.sites))
            roster = parcel.roster
            veil = roster.veil(carry_over(grid, nodes)) if roster is not None else None
            found.append(job.carry(ask_over(grid, nodes), veil))
        except BaseException as fault:
            faults.append(fault)

    resources = {"num_cpus": int(job.resources.get("num_cpus", 1))}
    resources["num_gpus"] = job.resources.get("num_gpus", 0.0)
    with _quiet():
        simulation(
            server_app=server_app(main),
            client_app=client_app(partial(find_desk, parcel)),
            num_supernodes=len(job.sites),
            backend_config={
                "client_resources": resources,
                "init_args": {"include_dashboard": False},
            },
        )
    if faults:
        raise faults[0]
    return found[0]


def find_desk(parcel: Parcel, context: Any) -> Desk:
    """Return the desk of the site that a Flower node stands for."""
    site = parcel.names[int(context.node_config["partition-id"])]
    number = parcel.names.index(site)
    images, rows, owners = _open(parcel.pixels, parcel.folder / ROWS)
    asked = parcel.privacy
    return Desk(
        site=site,
        images=Subset(images, rows[number]),
        keepsake=Keepsake(
            folder=site_folder(parcel.folder, site),
            digest=parcel.digest,
            keep=parcel.keep,
            durable=False,
        ),
        trainer=trainer_for,
        seat=_seat(parcel, site),
        account=site_account(asked, parcel.folder, site, owners[number]) if asked else None,
    )


def _seat(parcel: Parcel, site: str) -> Seat | None:
    """Return a site's part in masked rounds; in a file, since each message may wake a new process.

    The file is named after this session's keys: those of a session before it are of no use.
    """
    if parcel.roster is None:
        return None
    file = site_folder(parcel.folder, site) / f"masked-{parcel.roster.public.digest[:16]}.json"
    return Seat(member=parcel.roster.member(site), notes=NotesInFile(file))


@lru_cache(maxsize=1)
def _open(pixels: Path, rows: Path) -> tuple[Images, list[Rows], list[Rows]]:
    """Return images, and for each site its rows and whose these are."""
    mapped = np.load(pixels, mmap_mode="r")
    images = Images(pixels=mapped, catalog=catalog_of([]), skipped=(), digest="")
    with np.load(rows, allow_pickle=False) as kept:
        sites = range(sum(name.startswith("site_") for name in kept.files))
        owners = [kept.get(f"owners_{number}", NOBODY) for number in sites]
        return images, [kept[f"site_{number}"] for number in sites], owners


def _pack(job: Job) -> Parcel:
    job.folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Rows] = {}
    for number, own in enumerate(job.sites.values()):
        rows[f"site_{number}"] = own
        if job.run.privacy is not None:
            rows[f"owners_{number}"] = job.images.catalog.patients[own]
    np.savez(job.folder / ROWS, **rows)  # type: ignore[arg-type]
    return Parcel(
        pixels=Path(job.images.pixels.filename).resolve(),  # type: ignore[union-attr]
        folder=job.folder.resolve(),
        names=tuple(job.sites),
        digest=job.digest,
        keep=job.run.federation.keep_checkpoints + 1,
        roster=draw_roster(job.sites) if job.run.secure_aggregation is not None else None,
        privacy=job.run.privacy,
    )


def _flower() -> Callable[..., None]:
    """Return Flower's entry to simulation, its telemetry off."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from flwr.simulation import run_simulation

    return run_simulation


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Flower logs below an error, its notice on ``run_simulation`` among it."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
