"""A checkpoint: tensors as safetensors beside a manifest that proves them whole.

A folder ``round-0004`` holds ``<part>.safetensors`` files and ``manifest.json`` with the SHA-256 of
each and of itself, the run's digest, the round, and whatever small values the writer adds. With a
key (``at_rest.key_at_rest``) the tensors are encrypted; the manifest is not.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from confrere_common.at_rest import CREDENTIAL, KEY, KEY_FILE, MAGIC, key_at_rest, opened, sealed
from confrere_common.errors import CheckpointError, ConfigError, ExchangeError
from confrere_common.pack import View, length, unpacked, views
from confrere_common.storage import atomic_folder, remove_folder

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of the layout; a folder of another version is not read."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was saved at the end of a round."""

    round: int
    digest: str
    """Digest of the run that it belongs to."""

    parts: Mapping[str, Mapping[str, Tensor]]
    """Part name ("weights", "step", ...) -> name -> tensor."""

    values: Mapping[str, Any]
    """Anything small that JSON can hold."""


def folder_of(root: Path, round: int) -> Path:
    """Return where the checkpoint of a round lies."""
    return root / f"round-{round:04d}"


def save_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int, durable: bool = True) -> None:
    """Write the checkpoint atomically and drop all but the newest *keep*.

    A *durable* one survives a power cut; without, only the death of the process.

    CheckpointError when the disk refuses; the previous checkpoints then stand untouched.
    """
    parts = {part: views(tensors) for part, tensors in checkpoint.parts.items()}

    def fill(folder: Path) -> None:
        sums = {}
        for part, content in parts.items():
            name = f"{part}.safetensors"
            hidden = _hidden(content, checkpoint.round, checkpoint.digest, part)
            sums[name] = _written(folder / name, hidden)
        manifest = {
            "format": FORMAT,
            "round": checkpoint.round,
            "digest": checkpoint.digest,
            "sha256": sums,
            "values": checkpoint.values,
        }
        (folder / "manifest.json").write_bytes(_sealed(manifest))

    try:
        atomic_folder(folder_of(root, checkpoint.round), fill, durable=durable)
    except OSError as fault:
        size = sum(length(content) for content in parts.values())
        raise CheckpointError(
            f"round {checkpoint.round} could not be saved ({size / 2**20:.1f} MiB): "
            f"{fault.strerror}. The rounds saved before it are untouched; free some space and use "
            "--resume."
        ) from fault
    for later in saved_rounds(root):  # of a history that is being done again
        if round_of(later) > checkpoint.round:
            remove_folder(later)
    prune(root, keep=keep)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint; CheckpointError if anything in it is missing, cut short or altered."""
    try:
        manifest = _unsealed((folder / "manifest.json").read_bytes(), folder.name)
        parts = {}
        for name, digest in manifest["sha256"].items():
            content = _read(folder / name)
            if _sha256(content) != digest:
                raise CheckpointError(f"{folder.name}/{name} was cut short or altered")
            part = name.removesuffix(".safetensors")
            shown = _shown(content, manifest["round"], manifest["digest"], part)
            parts[part] = unpacked(shown)[0]
        return Checkpoint(
            round=manifest["round"],
            digest=manifest["digest"],
            parts=parts,
            values=manifest["values"],
        )
    except (OSError, ValueError, KeyError, TypeError, ExchangeError) as fault:
        raise CheckpointError(f"{folder.name} cannot be read: {type(fault).__name__}") from fault


def saved_rounds(root: Path) -> list[Path]:
    """List the checkpoints under *root*, newest first; what is half written is not among them."""
    # A copy that someone laid beside them ("round-0004.bak") is theirs: neither read nor dropped.
    found = [path for path in root.glob("round-*") if path.name[len("round-") :].isdecimal()]
    return sorted(found, key=round_of, reverse=True)


def round_of(folder: Path) -> int:
    """Return the round that a checkpoint's folder is named after."""
    return int(folder.name[len("round-") :])


def prune(root: Path, *, keep: int) -> None:
    """Drop all but the newest *keep* checkpoints, and what a crash left half written."""
    for old in saved_rounds(root)[keep:]:
        remove_folder(old)
    for part in root.glob(".round-*"):
        remove_folder(part)


def _hidden(content: list[View], round: int, digest: str, part: str) -> Iterable[View]:
    key = key_at_rest()
    if key is None:
        return content
    return chain([MAGIC], sealed(content, key, _name(round, digest, part)))


def _written(path: Path, content: Iterable[View]) -> str:
    """Write *content* piece by piece; return its SHA-256."""
    sum_ = hashlib.sha256()
    with path.open("wb") as file:
        for piece in content:
            sum_.update(piece)
            file.write(piece)
    return sum_.hexdigest()


def _read(path: Path) -> bytearray:
    content = bytearray(path.stat().st_size)
    with path.open("rb") as file:
        del content[file.readinto(content) :]
    return content


def _shown(content: bytearray, round: int, digest: str, part: str) -> bytearray:
    """Return a part, whole as its digest says, in the clear; ConfigError without its key.

    Not a CheckpointError, after which an older checkpoint would be used, or none. A plain part is
    read under a key as well, with a warning: a run may get its key after it began.
    """
    key = key_at_rest()
    if not content.startswith(MAGIC):
        if key is not None:
            log.warning(
                "part %r of round %d is not encrypted, though there is a key: it was saved before "
                "the key was set, or laid there by somebody without it",
                part, round,
            )  # fmt: skip
        return content
    file = io.BytesIO(memoryview(content)[len(MAGIC) :])
    try:
        if key is not None:
            return opened(file, key, _name(round, digest, part))
    except CheckpointError:
        given = "another key is given"
    else:
        given = "no key is given"
    fault = (
        f"the checkpoint of round {round} is encrypted, and {given}: set {KEY_FILE} or {KEY}, or "
        f"the systemd credential {CREDENTIAL}."
    )
    raise ConfigError([fault], "encryption at rest")


def _name(round: int, digest: str, part: str) -> str:
    return f"checkpoint {digest} {round} {part}"


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    # Of many rounds of many sites this is long: its own seal goes in without writing it again.
    plain = json.dumps(manifest).encode()
    return plain[:-1] + f', "seal": "{_sha256(plain)}"}}'.encode()


def _unsealed(content: bytes, name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(content)
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{name} has format {manifest['format']}, not {FORMAT}")
    seal = manifest.pop("seal")
    if _sha256(json.dumps(manifest).encode()) != seal:
        raise CheckpointError(f"{name}/manifest.json was altered")
    return manifest


def _sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()
