"""What a run starts from before its first round: fresh weights, or those of a release."""

from safetensors.torch import load

from confrere_common.config import Run
from confrere_common.model import first_weights
from confrere_common.weights import Weights
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState


def fresh(folder: Folder, run: Run) -> ServerState:
    """Return the state before the first round of the run in *folder*."""
    if run.stage == "describe":
        return ServerState(round=0, weights={}, step={})
    warm: Weights = {}
    if folder.order.warm_start:
        warm = load((folder.path / "warm.safetensors").read_bytes())
    return ServerState(round=0, weights=first_weights(run, run.seeds[0], warm), step={})
