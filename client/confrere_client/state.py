"""What a site keeps between rounds, on its own disk: optimizer moments, a method's own teacher.

One file a round, ``round-0004.state``: the SHA-256 of what follows, then safetensors in which all
tensors of a type are one, with their names and shapes and the run's digest in its header. A
simulation keeps states of a thousand sites: a folder of many small tensors each cost it more than
the sites' training.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from confrere_client.train import LocalState
from confrere_common.errors import CheckpointError
from confrere_common.storage import sync_folder

log = logging.getLogger(__name__)

START, END = "round-", ".state"
SEAL_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Keepsake:
    """One site's folder of states, newest few rounds; it never travels."""

    folder: Path
    digest: str
    """Digest of the run: a state of another run is not used."""

    keep: int

    durable: bool = True
    """Whether a state survives a power cut; else only the death of the process, in less time."""

    def load(self, before: int) -> LocalState:
        """Return the newest state of a round earlier than *before*; empty at a first participation.

        A round that is done again after a crash thus starts from what it started from.
        """
        for round in self._rounds():
            if round < before:
                found = self._read(round)
                if found is not None:
                    return found
        return {}

    def save(self, round: int, state: LocalState) -> None:
        """Keep *state* as that of *round*; nothing is written when there is nothing to keep.

        CheckpointError when the disk refuses; the states before it then stand untouched.
        """
        if not state:
            return
        content = _sealed(state, self.digest)
        try:
            self._write(self._path(round), content)
            self._prune(round)
        except OSError as fault:
            raise CheckpointError(
                f"the site's own state of round {round} could not be saved "
                f"({len(content) / 2**20:.1f} MiB): {fault.strerror}. Those saved before it are "
                "untouched; free some space and use --resume."
            ) from fault

    def _write(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{START}part"
        with part.open("wb") as file:
            file.write(content)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if self.durable:  # also that there is such a file, and such a folder
            sync_folder(self.folder)
            sync_folder(self.folder.parent)

    def _prune(self, newest: int) -> None:
        """Drop what is of a history that is being done again, and all but the newest few."""
        rounds = self._rounds()
        past = [round for round in rounds if round <= newest]
        for round in set(rounds) - set(past[: self.keep]):
            self._path(round).unlink()

    def _rounds(self) -> list[int]:
        """Return the rounds of which there is a state, newest first."""
        try:
            # A simulation asks this of every site in every round: Path takes three times as long.
            names = os.listdir(self.folder)  # noqa: PTH208
        except FileNotFoundError:
            return []
        numbers = [
            name[len(START) : -len(END)]
            for name in names
            if name.startswith(START) and name.endswith(END)
        ]
        return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)

    def _path(self, round: int) -> Path:
        return self.folder / f"{START}{round:04d}{END}"

    def _read(self, round: int) -> LocalState | None:
        path = self._path(round)
        try:
            digest, state = _unsealed(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as fault:
            kind = type(fault).__name__
            log.warning("a site's own state was set aside: %s cannot be read (%s)", path.name, kind)
            return None
        return state if digest == self.digest else None


def _sealed(state: LocalState, digest: str) -> bytes:
    by_type: dict[str, list[Tensor]] = {}
    layout = []
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        by_type.setdefault(kind, []).append(tensor.reshape(-1))
        layout.append((name, kind, tuple(tensor.shape)))
    joined = {kind: torch.cat(parts) for kind, parts in by_type.items()}
    content = save(joined, {"digest": digest, "layout": json.dumps(layout)})
    return hashlib.sha256(content).digest() + content


def _unsealed(content: bytes) -> tuple[str, LocalState]:
    """Return the digest of the run and its state; ValueError when anything was altered."""
    seal, content = content[:SEAL_BYTES], content[SEAL_BYTES:]
    if hashlib.sha256(content).digest() != seal:
        raise ValueError("cut short or altered")
    # https://huggingface.co/docs/safetensors: the length of the header, the header as JSON.
    length = int.from_bytes(content[:8], "little")
    told: Mapping[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    layout = json.loads(told["layout"])
    parts = {
        kind: iter(joined.split_with_sizes([math.prod(s) for _, of, s in layout if of == kind]))
        for kind, joined in load(content).items()
    }
    return told["digest"], {name: next(parts[kind]).view(shape) for name, kind, shape in layout}
