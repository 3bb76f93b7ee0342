"""What a run must be like for a real federation, told at once and before any hospital sees it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from confrere_client.finetune.start import way_up, with_start
from confrere_client.hospital.registry import dataset_of
from confrere_common.config import Run
from confrere_common.errors import ConfigError, DataError
from confrere_common.model import (
    build_model,
    input_of,
    must_build_whole,
    shared_weights,
    task_of,
    whole_encoder,
)
from confrere_common.pki.keys import signing_public
from confrere_common.release import load_release
from confrere_common.secagg.section import SITES_AT_LEAST
from confrere_common.task import TASKS
from confrere_server.cohort import draw_cohort
from confrere_server.joining import must_join
from confrere_server.masked import must_be_maskable
from confrere_server.membership.roster import Roster


def must_be_federable(run: Run, roster: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError listing all that keeps *run* from being submitted to the sites in *roster*.

    A roster is looked at for runs under secure aggregation only.
    """
    faults = [*_unfit(run), *_unmaskable(run, roster or {})]
    trains = run.stage != "describe"
    checks = (
        *((lambda: input_of(run), lambda: must_build_whole(run)) if trains else ()),
        lambda: must_be_maskable(run),
        lambda: must_join(run),
    )
    for check in checks:
        try:
            check()
        except ConfigError as fault:
            faults += fault.faults
    if faults:
        once = [*dict.fromkeys(faults)]  # several checks meet what is open
        raise ConfigError(once, f"run '{run.name}'")
    if trains:
        build_model(run, run.seeds[0])


def _unfit(run: Run) -> Iterator[str]:
    try:
        dataset_of(run)
    except DataError as fault:
        yield f"data.source: {fault}"
    if run.data.leave_out:
        yield "data.leave_out is for a simulation: here a site is left out by not being invited."
    task = task_of(run)
    if task is not None and task.classes is None and TASKS.member(task.task.name).classed:
        yield "finetune.classes is open: hospitals cannot agree on names. Write them into the run."
    if len(run.seeds) != 1:
        yield f"seeds: {len(run.seeds)} are given; a federation trains one encoder."


def _unmaskable(run: Run, roster: Mapping[str, str]) -> Iterator[str]:
    if run.secure_aggregation is None:
        return
    if len(roster) < SITES_AT_LEAST:
        yield (
            f"secure_aggregation: {len(roster)} sites are enrolled, and a sum of fewer than "
            f"{SITES_AT_LEAST} hides nobody: wait for more to join, or leave it out."
        )
    if run.federation.min_sites < SITES_AT_LEAST:
        yield (
            f"federation.min_sites is {run.federation.min_sites}, and a round under "
            f"secure_aggregation takes {SITES_AT_LEAST}: set it to {SITES_AT_LEAST} or more."
        )
    elif _smallest_cohort(run) < SITES_AT_LEAST:
        yield (
            f"federation.cohort of {run.federation.cohort:g} asks {_smallest_cohort(run)} of "
            f"{run.federation.min_sites} sites, and a round under secure_aggregation takes "
            f"{SITES_AT_LEAST}: raise cohort or min_sites."
        )


def _smallest_cohort(run: Run) -> int:
    """Return how many sites a round may be held among at least."""
    names = [str(number) for number in range(run.federation.min_sites)]
    return len(draw_cohort(names, run.federation.cohort, 1, run.seeds[0]))


def signing_roster(roster: Roster) -> dict[str, str]:
    """Return each active site's signing key as hexadecimal: who may take part in masked rounds."""
    active = {name: site for name, site in roster.sites.items() if site.state == "active"}
    keys = {name: signing_public(site.audit_key) for name, site in active.items()}
    return {name: key.public_bytes_raw().hex() for name, key in sorted(keys.items())}


def started(run: Run, folder: Path, release: Path | None) -> tuple[Run, Path | None]:
    """Return the run as hospitals may see it, and the release that its encoder starts from.

    A run that fine-tunes names its start in ``finetune.start``, from *folder* on, or is given a
    *release*: its digest then takes the place of the path.
    """
    task = task_of(run)
    if task is None:
        return run, release
    if task.start is not None and release is not None:
        raise ConfigError(["finetune.start is given, and --warm-start too: leave one out."])
    path = release or (folder / Path(task.start).expanduser() if task.start else None)
    if path is None:
        return run, None
    named = replace(run, finetune=replace(task, start=str(path.absolute())))
    return with_start(named, folder)[0], path


def warm_weights(run: Run, release: Path | None) -> bytes:
    """Return a release's weights, under the run's own names; ConfigError when they do not fit.

    Of a decoder that lies beside the encoder it takes what the run's task starts from.
    """
    if release is None:
        return b""
    if run.stage == "describe":
        raise ConfigError(["stage describe trains nothing: leave out --warm-start."])
    encoder, _ = load_release(release)
    given = encoder.state_dict()
    due = whole_encoder(run, shared_weights(build_model(run, run.seeds[0])))
    odd = [
        name
        for name in sorted(due.keys() | given.keys())
        if name not in due or name not in given or due[name].shape != given[name].shape
    ]
    if odd:
        fault = f"{release.name} is another encoder than the run's: they differ at '{odd[0]}'."
        raise ConfigError([fault], f"run '{run.name}'")
    named = {f"encoder.{name}": given[name] for name in due} | way_up(run, release)[0]
    return save({name: tensor.contiguous() for name, tensor in named.items()})
