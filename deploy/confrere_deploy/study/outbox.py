"""The folder that a study leaves behind: made once, taken up again, never mixed with another."""

import json
from pathlib import Path
from typing import Any

from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.storage import atomic_write

STUDY = "study.json"


def open_folder(out: Path, study: dict[str, Any], *, resume: bool) -> None:
    """Make *out* the folder of *study* (its digests), or check that it is.

    ConfigError when something lies there and *resume* was not asked for; CheckpointError when what
    lies there is another study.
    """
    note = out / STUDY
    try:
        if not note.exists():
            _begin(note, study)
            return
    except OSError as fault:
        raise ConfigError([f"'{out}' cannot be used: {fault.strerror}."], "--out") from None
    if not resume:
        raise ConfigError(
            [f"'{out}' holds a study: add --resume to go on with it, or give --out a new folder."],
            "--out",
        )
    _must_be(note, study)


def _begin(note: Path, study: dict[str, Any]) -> None:
    out = note.parent
    if out.exists() and any(out.iterdir()):
        raise ConfigError([f"'{out}' holds other files: give --out a new folder."], "--out")
    atomic_write(note, json.dumps(study, indent=2).encode())


def _must_be(note: Path, study: dict[str, Any]) -> None:
    try:
        kept = dict(json.loads(note.read_bytes()))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{note} cannot be read: give --out a new folder.") from None
    odd = [key for key in study if kept.get(key) != study[key]]
    if odd:
        raise CheckpointError(
            f"{note.parent} holds another study: {' and '.join(odd)} differ. Bring back the "
            "settings and images it began with, or give --out a new folder."
        )
