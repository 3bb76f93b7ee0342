"""Whether a run can be carried out on this machine: every fault at once, before anything is done.

Each part is examined wherever it is sound itself, whatever ails the others.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from confrere_client.data.catalog import Catalog, catalog_of, check_patients
from confrere_client.device import choose_device
from confrere_client.source import Record, UnreadableImage, open_source
from confrere_common.config import Data, Run
from confrere_common.errors import ConfigError, ConfrereError, DataError
from confrere_common.family import Named
from confrere_common.loading import choice_at, parse_run, read_plain
from confrere_common.model import must_build, must_build_whole, must_suit
from confrere_common.privacy.independence import must_stand_alone
from confrere_deploy.engine import must_cut, must_run
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.split import spread
from confrere_deploy.study.holdout import holdout
from confrere_server.joining import must_join
from confrere_server.masked import must_be_maskable

T = TypeVar("T")

TRIED = 20
"""Images of a source that are tried, until one can be read."""


def checked(path: Path, overrides: Sequence[str] = (), *, engine: str = "inline") -> Run:
    """Load a run that this machine can carry out; ConfigError lists every fault, wherever it is.

    Besides the values: the engine, the device, the images (listed, one of them read) and the model
    (built, without memory).
    """
    plain = read_plain(path, overrides)
    faults: list[str] = []
    run = _heard(faults, lambda: parse_run(plain, ALL_FAMILIES))
    if run is not None:
        masked = run
        _heard(faults, lambda: must_be_maskable(masked))
        _heard(faults, lambda: must_join(masked))
    _heard(faults, lambda: must_run(engine))
    if run is not None:
        cropped = run
        _heard(faults, lambda: must_cut(engine, cropped))
    _heard(faults, lambda: choose_device(_device(plain)))
    image = _image(faults, plain, path.parent)
    _model(faults, plain, image)
    if run is not None and run.stage != "describe" and image is not None and not faults:
        settled = settle(run, image)
        _heard(faults, lambda: must_build_whole(settled))
        if not faults:
            _heard(faults, lambda: must_stand_alone(settled))
    if faults or run is None:
        raise ConfigError(dict.fromkeys(faults), str(path))
    return run


def settle(run: Run, image: NDArray[Any]) -> Run:
    """Return the run with what an image tells of channels and axes filled in."""
    channels, dims = run.data.channels or image.shape[0], image.ndim - 1
    return replace(run, data=replace(run.data, channels=channels, dims=dims))  # type: ignore[arg-type]


def _image(faults: list[str], plain: Mapping[str, Any], folder: Path) -> NDArray[Any] | None:
    """Return an image of the source as it was decoded, once patients and sites are found sound."""
    source = _sound(plain, "data.source")
    if source is None:
        return None
    records = _heard(faults, lambda: _records(source, folder))
    if records is None:
        return None
    data = _data(plain)
    if data is not None:
        _heard(faults, lambda: _spread(data, catalog_of(records)))
    return _heard(faults, lambda: _readable(records))


def _records(source: Named, folder: Path) -> Sequence[Record]:
    records = open_source(source, folder).records()
    check_patients(records)
    return records


def _spread(data: Data, catalog: Catalog) -> None:
    held = holdout(catalog, data.test_share, data.val_share, data.seed)
    spread(data, catalog, held.train)


def _readable(records: Sequence[Record]) -> NDArray[Any]:
    """Return the first image that can be read; DataError when the first few cannot."""
    for record in islice(records, TRIED):
        with suppress(UnreadableImage):
            return record.decode()
    tried = min(TRIED, len(records))
    raise DataError(f"none of the first {tried} of {len(records)} images can be read.")


def _model(faults: list[str], plain: Mapping[str, Any], image: NDArray[Any] | None) -> None:
    if plain.get("stage") == "describe":  # it trains nothing
        return
    method, encoder, data = _sound(plain, "method"), _sound(plain, "encoder"), _data(plain)
    if method is None or encoder is None:
        return
    if data is None:  # the size of an image is unknown, but not whom a method can train
        _heard(faults, lambda: must_suit(method, encoder))
        return
    if plain.get("stage") == "finetune":  # its task is built with the whole run
        return
    dims = data.dims or 2 if image is None else image.ndim - 1
    if data.dims not in (None, dims):
        faults.append(f"data.dims is {data.dims}, but the images have {dims} axes: leave it out.")
    channels = data.channels or 1
    _heard(
        faults,
        lambda: must_build(method, encoder, channels=channels, size=data.sides(dims)),
    )


def _sound(plain: Mapping[str, Any], place: str) -> Named | None:
    """Return the choice at *place* if there is one without fault."""
    named = choice_at(plain, place)
    if named is not None:
        with suppress(ConfigError):
            ALL_FAMILIES[place].configure(named)
            return named
    return None


def _data(plain: Mapping[str, Any]) -> Data | None:
    if not all(_sound(plain, place) for place in ("data.source", "data.split")):
        return None
    written = {**plain["data"], "split": choice_at(plain, "data.split")}
    try:
        return TypeAdapter(Data).validate_python(written)
    except ValidationError:
        return None


def _device(plain: Mapping[str, Any]) -> str:
    train = plain.get("train")
    named = train.get("device") if isinstance(train, Mapping) else None
    return named if isinstance(named, str) else "auto"


def _heard(faults: list[str], ask: Callable[[], T]) -> T | None:
    """Return what *ask* answers; None, and its faults among *faults*, when it has some."""
    try:
        return ask()
    except ConfigError as fault:
        faults += fault.faults
    except ConfrereError as fault:
        faults.append(str(fault))
    return None
