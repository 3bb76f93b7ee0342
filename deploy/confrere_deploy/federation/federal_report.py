"""The report of a real federation: what its coordinator knows, which is no image and no patient."""

import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from confrere_common.codes import CODES, sentence_of
from confrere_common.config import Run
from confrere_common.encoder import build_encoder
from confrere_common.errors import CheckpointError
from confrere_common.loading import as_dict
from confrere_common.model import input_of
from confrere_common.preparation import demanded
from confrere_deploy.federation.federal_tuned import tuned_report
from confrere_deploy.report import schema
from confrere_deploy.report.pictures import Pictures
from confrere_deploy.report.tuned import write_tuned
from confrere_deploy.report.write import write_report
from confrere_deploy.study.history import alarm_warnings, record_warnings, rounds_told
from confrere_deploy.study.machine import machine
from confrere_deploy.study.protection import Told, protection, rounds_of
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs.choosing import course_of
from confrere_server.runs.judging import summed
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState, newest_state

UNMEASURED = (
    "Nothing was measured on test patients: the coordinator has no images. Have the hospitals "
    "evaluate the encoder before anybody relies on it."
)


def write_federal_report(folder: Folder, target: Path) -> None:
    """Write report.html and report.json of a finished run; CheckpointError without its rounds."""
    order = folder.order
    state = newest_state(folder.path / "checkpoints", digest=order.digest)
    if state is None:
        raise CheckpointError(f"{folder.path.name} has no checkpoint left to tell of.")
    told = {site: plain.get("privacy", {}) for site, plain in folder.standing.sites.items()}
    run = order.parsed()
    if run.stage == "finetune":
        found = summed(folder.path, run)
        course = course_of(folder)
        write_tuned(target, tuned_report(run, order.digest, _spoken(state), found, told, course))
        return
    write_report(target, federal_report(run, order.digest, state, told), Pictures())


def federal_report(
    run: Run, digest: str, state: ServerState, told: Told = MappingProxyType({})
) -> schema.Report:
    """Return what there is to report of a run's last state; *told* are sites' terms of privacy."""
    spoken = _spoken(state)
    seed = run.seeds[0]
    channels, size = input_of(run)
    encoder = build_encoder(run.encoder, channels=channels, size=size)
    rounds = rounds_told({seed: spoken}, features=encoder.width)
    sites = _sites(spoken)
    return schema.Report(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=as_dict(run),
        digest=digest,
        seeds=run.seeds,
        sites=sites,
        arms={},
        rounds=rounds,
        cost=_cost(spoken),
        protection=protection(run, told, rounds_of(spoken.records)),
        warnings=(UNMEASURED, *alarm_warnings(rounds), *record_warnings(seed, spoken.records)),
        data=schema.Data(
            images=sum(site.images for site in sites),
            classes=(),
            channels=channels,
            size=size,
            modality=run.augment.modality,
            test_images=0,
            test_patients=0,
            preparation=demanded(run.data.preparation),
        ),
        machine=machine("cpu"),
        command=shlex.join(["confrere", *sys.argv[1:]]),
    )


def _spoken(state: ServerState) -> ServerState:
    """Return the state with what sites said in sentences instead of codes."""
    return ServerState(
        round=state.round, weights={}, step={}, records=tuple(_translated(state.records))
    )


def _translated(records: tuple[RoundRecord, ...]) -> Iterator[RoundRecord]:
    for record in records:
        sites = tuple(
            SiteRecord(**{**vars(site), "refused": sentence_of(site.refused)})
            if site.refused in CODES
            else site
            for site in record.sites
        )
        yield RoundRecord(**{**vars(record), "sites": sites})


def _sites(state: ServerState) -> tuple[schema.Site, ...]:
    images: dict[str, int] = {}
    for record in state.records:
        for site in record.sites:
            images[site.site] = site.images or images.get(site.site, 0)
    return tuple(schema.Site(site=name, images=count) for name, count in sorted(images.items()))


def _cost(state: ServerState) -> schema.Cost:
    seconds = sum(record.seconds for record in state.records)
    seen = sum(s.metrics.get("seen", 0.0) for record in state.records for s in record.sites)
    return schema.Cost(
        wall_s=seconds,
        bytes_up=sum(record.bytes_up for record in state.records),
        bytes_down=sum(record.bytes_down for record in state.records),
        images_per_s=seen / seconds if seconds else 0.0,
    )
