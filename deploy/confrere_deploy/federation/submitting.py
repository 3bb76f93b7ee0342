"""What a run must be like for a real federation, told at once and before any hospital sees it."""

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save

from confrere_client.hospital.registry import dataset_of
from confrere_common.config import Run
from confrere_common.errors import ConfigError, DataError
from confrere_common.model import build_model, encoder_weights, input_of, must_suit, shared_weights
from confrere_common.release import load_release


def must_be_federable(run: Run) -> None:
    """Raise ConfigError listing all that keeps *run* from being submitted."""
    faults = [*_unfit(run)]
    for check in (lambda: input_of(run), lambda: must_suit(run.method, run.encoder)):
        try:
            check()
        except ConfigError as fault:
            faults += [f"{text} Write them into the run." for text in fault.faults]
    if faults:
        raise ConfigError(faults, f"run '{run.name}'")
    build_model(run, run.seeds[0])


def _unfit(run: Run) -> Iterator[str]:
    try:
        dataset_of(run)
    except DataError as fault:
        yield f"data.source: {fault}"
    if len(run.seeds) != 1:
        yield f"seeds: {len(run.seeds)} are given; a federation trains one encoder."
    if run.secure_aggregation is not None:
        yield (
            "secure_aggregation: a deployed server cannot hold masked rounds yet (a simulation "
            "can): leave it out, and tell the hospitals so."
        )


def warm_weights(run: Run, release: Path | None) -> bytes:
    """Return a release's weights if they fit the run's encoder; ConfigError when they do not."""
    if release is None:
        return b""
    encoder, _ = load_release(release)
    given = encoder.state_dict()
    due = encoder_weights(shared_weights(build_model(run, run.seeds[0])))
    odd = [
        name
        for name in sorted(due.keys() | given.keys())
        if name not in due or name not in given or due[name].shape != given[name].shape
    ]
    if odd:
        fault = f"{release.name} is another encoder than the run's: they differ at '{odd[0]}'."
        raise ConfigError([fault], f"run '{run.name}'")
    return save({name: given[name].contiguous() for name in due})
