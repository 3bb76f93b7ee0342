"""Runs of any stage that are done, as the server leaves them, without the training before it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from described import text_of
from served import federated

from confrere_common.config import Run
from confrere_common.finetune import Finetune
from confrere_common.model import build_model, shared_weights
from confrere_server.description.collecting import keep_in
from confrere_server.membership.workspace import Workspace
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.runs.judging import keep
from confrere_server.runs.publish import publish
from confrere_server.runs.queue import Folder, submit
from confrere_server.store import ServerState, save_state


def finished(
    workspace: Workspace, run: Run | None = None, said: Mapping[str, Any] | None = None
) -> Folder:
    """Return the folder of a run of one round, done and sealed; *said* is what sites counted."""
    run = run or federated()
    folder = submit(workspace.runs, run)
    site = SiteRecord(site="north", images=9, metrics={"loss": 0.5})
    record = RoundRecord(round=1, sites=(site,), bytes_up=1, bytes_down=1, seconds=1.0, void="")
    state = ServerState(round=1, weights=_weights(folder.path, run), step={}, records=(record,))
    save_state(folder.path / "checkpoints", state, digest=folder.order.digest, keep=1)
    if said is not None:
        keep(folder.path, 1, said)
    publish(workspace, folder, state, {"north": (5, "cd" * 32)})
    folder.stand(replace(folder.standing, state="done"))
    return folder


def _weights(folder: Path, run: Run) -> Mapping[str, Any]:
    if run.stage != "describe":
        return shared_weights(build_model(run, 0))
    keep_in(folder)("north", text_of(60))
    return {}


def tuned(**section: Any) -> Run:
    """Return a fine-tuning of one round for a federation; *section* are values of finetune."""
    section = {"classes": ("a", "b"), **section}
    return replace(federated(rounds=1), stage="finetune", finetune=Finetune(**section))


def counts(kind: int = 1, low: int = 20, high: int = 20, classes: int = 2) -> dict[str, Any]:
    """Return what a site tells of its scores for one class, which are well told apart."""
    tally = {"kind": kind, "positives": [[64, 128, high]], "negatives": [[0, 64, low]]}
    return {"classes": classes, "smallest": 10, "tallies": [tally]}
