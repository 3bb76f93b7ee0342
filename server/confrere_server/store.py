"""The server's state between rounds, and how it survives a crash."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from confrere_common.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    saved_rounds,
)
from confrere_common.errors import CheckpointError
from confrere_common.weights import Weights
from confrere_server.admission import Repute, read_repute
from confrere_server.record import RoundRecord, read_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """All that the next round depends on."""

    round: int
    """Rounds done."""

    weights: Weights
    step: Mapping[str, Tensor]
    """What the server step remembers (momentum and the like)."""

    records: tuple[RoundRecord, ...] = ()
    repute: Repute = field(default_factory=Repute)


def save_state(root: Path, state: ServerState, *, digest: str, keep: int) -> None:
    """Save the state atomically; CheckpointError when the disk refuses."""
    saved = Checkpoint(
        round=state.round,
        digest=digest,
        parts={"weights": state.weights, "step": state.step},
        values={
            "records": [record.as_dict() for record in state.records],
            "repute": state.repute.as_dict(),
        },
    )
    save_checkpoint(root, saved, keep=keep)


def newest_state(root: Path, *, digest: str) -> ServerState | None:
    """Return the newest whole state, warning of any damaged one before it; None if there is none.

    CheckpointError when a whole state belongs to another run: nothing is mixed or overwritten.
    """
    for folder in saved_rounds(root):
        try:
            found = load_checkpoint(folder)
        except CheckpointError as fault:
            log.warning("%s; the checkpoint before it is used", fault)
            continue
        if found.digest != digest:
            raise CheckpointError(
                f"{root} holds rounds of another run (digest {found.digest[:12]}, this one is "
                f"{digest[:12]}): give --out another folder, or bring back that run's settings."
            )
        records = tuple(read_record(plain) for plain in found.values["records"])
        parts = found.parts
        return ServerState(
            round=found.round,
            weights=parts["weights"],
            step=parts["step"],
            records=records,
            repute=read_repute(found.values["repute"]) if "repute" in found.values else Repute(),
        )
    return None
