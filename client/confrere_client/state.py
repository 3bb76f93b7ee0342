"""What a site keeps between rounds, on its own disk: optimizer moments, a method's own teacher."""

import logging
from dataclasses import dataclass
from pathlib import Path

from confrere_client.train import LocalState
from confrere_common.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    saved_rounds,
)
from confrere_common.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Keepsake:
    """One site's folder of states, newest few rounds; it never travels."""

    folder: Path
    digest: str
    """Digest of the run: a state of another run is not used."""

    keep: int

    def load(self, before: int) -> LocalState:
        """Return the newest state of a round earlier than *before*; empty at a first participation.

        A round that is done again after a crash thus starts from what it started from.
        """
        for folder in saved_rounds(self.folder):
            if int(folder.name.removeprefix("round-")) >= before:
                continue
            found = self._read(folder)
            if found is not None:
                return found
        return {}

    def save(self, round: int, state: LocalState) -> None:
        """Keep *state* as that of *round*; nothing is written when there is nothing to keep."""
        if state:
            saved = Checkpoint(round=round, digest=self.digest, parts={"state": state}, values={})
            save_checkpoint(self.folder, saved, keep=self.keep, durable=False)

    def _read(self, folder: Path) -> LocalState | None:
        try:
            found = load_checkpoint(folder)
        except CheckpointError as fault:
            log.warning("a site's own state was set aside: %s", fault)
            return None
        return found.parts["state"] if found.digest == self.digest else None
