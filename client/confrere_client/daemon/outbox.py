"""Finished updates that may not have arrived: encrypted at rest, sent again without training again.

An entry's name is the errand's key: the digest of run, round and the very weights that came. A
server that asks a second time after a crash gets the same bytes.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_common.at_rest import opened, sealed
from confrere_common.errors import CheckpointError, ExchangeError
from confrere_common.exchange import Update
from confrere_common.pack import View, unpacked, views
from confrere_common.storage import sync_folder
from confrere_common.weights import weights_digest


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedUpdate:
    """An update that only the sum of all sites' can be read from."""

    round: int
    vector: NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """The folder of what may have to be sent again.

    Guarantee: what lies here can be read with the site's own key alone; an entry that was changed,
    cut short, or put under another name is not taken for one.
    """

    folder: Path
    key: bytes
    """32 bytes, of the site."""

    def put(self, errand: str, run: str, update: Update) -> None:
        """Keep *update*; it is whole on the disk when this returns. OSError when that is full."""
        said = {
            "run": run,
            "site": update.site,
            "round": update.round,
            "images": update.images,
            "metrics": dict(update.metrics),
            "description": update.description,
            "marks": update.marks.hex(),
        }
        self._keep(errand, views(update.delta, {"update": json.dumps(said)}))

    def _keep(self, errand: str, content: list[View]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._path(errand).with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for frame in sealed(content, self.key, _name(errand)):
                file.write(frame)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path(errand))
        sync_folder(self.folder)

    def put_masked(self, errand: str, run: str, masked: MaskedUpdate) -> None:
        """Keep an update under its masks, as ``put`` does."""
        said = json.dumps({"run": run, "round": masked.round, "masked": True})
        vector = torch.from_numpy(masked.vector.view(np.int32))
        self._keep(errand, views({"vector": vector}, {"update": said}))

    def get(self, errand: str) -> Update | MaskedUpdate | None:
        """Return the update of *errand*, None when there is none; a damaged one is removed."""
        try:
            with self._path(errand).open("rb") as file:
                return _update(opened(file, self.key, _name(errand)))
        except FileNotFoundError:
            return None
        except CheckpointError:
            self._path(errand).unlink(missing_ok=True)
            return None

    def drop_all_but(self, errand: str) -> None:
        """Remove what an earlier round left: the server has gone on, so it arrived."""
        for path in [*self.folder.glob("*.box"), *self.folder.glob("*.part")]:
            if path != self._path(errand):
                path.unlink(missing_ok=True)

    def _path(self, errand: str) -> Path:
        return self.folder / f"{errand}.box"


def _name(errand: str) -> str:
    return f"outbox {errand}"


def what_leaves(update: Update) -> str:
    """Return what an update is, as the audit log calls it."""
    if update.marks:
        return "counts and hashes of images leave"
    if not update.description:
        return "update leaves"
    return "score leaves" if '"score"' in update.description else "counts leave"


def digest_of_update(update: Update | MaskedUpdate) -> str:
    """Return SHA-256 of what leaves, as the audit log has it."""
    if isinstance(update, MaskedUpdate):
        return hashlib.sha256(update.vector.data).hexdigest()
    if update.description:
        return hashlib.sha256(update.description.encode() + update.marks).hexdigest()
    return weights_digest(update.delta)


def _update(content: bytearray) -> Update | MaskedUpdate:
    """Return the update that was packed; its tensors share the memory of *content*."""
    try:
        delta, texts = unpacked(content)
        said = json.loads(texts["update"])
        if said.get("masked"):
            return MaskedUpdate(round=said["round"], vector=delta["vector"].numpy().view(np.uint32))
        return Update(
            site=said["site"],
            round=said["round"],
            delta=delta,
            images=said["images"],
            metrics=said["metrics"],
            description=said.get("description", ""),
            marks=bytes.fromhex(said.get("marks", "")),
        )
    except (ValueError, KeyError, TypeError, RuntimeError, ExchangeError):
        raise CheckpointError("an update in the outbox cannot be read") from None
