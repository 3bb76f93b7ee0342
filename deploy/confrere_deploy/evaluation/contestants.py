"""The arms of an evaluation: each given encoder, the same from scratch, and both frozen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confrere_common.config import Run
from confrere_common.encoder import ENCODERS
from confrere_common.errors import ConfigError, ConfrereError
from confrere_common.loading import parse_run
from confrere_common.release import load_release
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.study.finetuning import must_finetune
from confrere_deploy.study.warm import NO_START, started_from

WEIGHTS = "encoder.safetensors"
SCRATCH, FROZEN = "scratch", "frozen"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to come to a network."""

    name: str
    what: str
    run: Run
    whole: bool = True
    """Whether it is fine-tuned as the run says; the others stand only beside it, frozen."""


def contestants(plain: Mapping[str, Any], encoders: Sequence[Path], where: str) -> list[Contestant]:
    """Return the arms, given encoders first; ConfigError with the faults of all of them.

    A run that names finetune.start brings that encoder itself.
    """
    faults: list[str] = []
    bare = _parsed(_without_start(plain), where, faults)
    paths = [weights_at(path) for path in encoders] or _own_start(plain, Path(where).parent)
    started = [
        (name, run)
        for name, path in zip(names_of(paths), paths, strict=True)
        if (run := _started(plain, path, where, faults)) is not None
    ]
    _must_agree([run for _, run in started], faults)
    if faults or bare is None:
        raise ConfigError(dict.fromkeys(faults), where)
    return list(_arms(bare, started))


def weights_at(path: Path) -> Path:
    """Return the encoder's file in a release's folder; a file as it is."""
    return path / WEIGHTS if path.is_dir() else path


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each encoder, each another: its file's, or its folder's."""
    found: list[str] = []
    for path in paths:
        whole = path.resolve()
        name = whole.parent.name if path.name == WEIGHTS else path.stem
        count = sum(one == name or one.startswith(f"{name} (") for one in found)
        found.append(f"{name} ({count + 1})" if count or name in (SCRATCH, "") else name)
    return found


def _arms(bare: Run, started: Sequence[tuple[str, Run]]) -> Iterator[Contestant]:
    for name, run in started:
        yield Contestant(name=name, what="fine-tuned from this encoder", run=run)
    fresh = _from_scratch(started) or {bare.encoder.name: bare}
    for kind, run in fresh.items():
        yield Contestant(
            name=SCRATCH if len(fresh) == 1 else f"{SCRATCH}, {kind}",
            what="the same training from random weights",
            run=run,
        )
    if must_finetune(bare).mode == "frozen":
        return
    for name, run in started:
        yield Contestant(
            name=f"{name}, {FROZEN}", what="this encoder as it is, a head on it learns",
            run=_frozen(run), whole=False,
        )  # fmt: skip
    for kind, run in fresh.items():
        yield Contestant(
            name=f"random, {FROZEN}" if len(fresh) == 1 else f"random {kind}, {FROZEN}",
            what="random weights as they are, a head on them learns: a floor",
            run=_frozen(run),
            whole=False,
        )


def _frozen(run: Run) -> Run:
    return replace(run, finetune=replace(must_finetune(run), mode="frozen"))


def _from_scratch(started: Sequence[tuple[str, Run]]) -> dict[str, Run]:
    """Return what an architecture is called -> its run without a start, each architecture once.

    Two of one kind (a narrow and a wide resnet) are told apart by the encoder that has it.
    """
    first: list[tuple[str, Run, Any]] = []
    for name, run in started:
        whole = run.encoder.name, ENCODERS.configure(run.encoder)
        if all(whole != other for *_, other in first):
            first.append((name, run, whole))
    kinds = [run.encoder.name for _, run, _ in first]
    return {
        kind if kinds.count(kind) == 1 else f"{kind} as {name}": replace(
            run,
            finetune=replace(
                must_finetune(run), start=None, start_digest=None, start_decoder_digest=None
            ),
        )
        for (name, run, _), kind in zip(first, kinds, strict=True)
    }


def _without_start(plain: Mapping[str, Any]) -> dict[str, Any]:
    section: Any = plain.get("finetune")
    if not isinstance(section, Mapping):
        return dict(plain)
    return {**plain, "finetune": {**section, **NO_START}}


def _own_start(plain: Mapping[str, Any], folder: Path) -> list[Path]:
    section: Any = plain.get("finetune")
    start = section.get("start") if isinstance(section, Mapping) else None
    return [folder / Path(start).expanduser()] if isinstance(start, str) else []


def _started(plain: Mapping[str, Any], path: Path, where: str, faults: list[str]) -> Run | None:
    try:
        load_release(path)
        return _parsed(started_from(plain, path), where, faults)
    except ConfigError as fault:
        faults.extend(fault.faults)
    except ConfrereError as fault:
        faults.append(str(fault))
    return None


def _parsed(plain: Mapping[str, Any], where: str, faults: list[str]) -> Run | None:
    try:
        return parse_run(plain, ALL_FAMILIES, where)
    except ConfigError as fault:
        faults.extend(fault.faults)
        return None


def _must_agree(runs: Sequence[Run], faults: list[str]) -> None:
    channels = {run.data.channels for run in runs}
    if len(channels) > 1:
        faults.append(
            f"the encoders take {' and '.join(map(str, sorted(channels, key=str)))} channels: "
            "evaluate those of one kind together"
        )
