"""What a run starts from before its first round: fresh weights, or those of a release."""

from safetensors.torch import load

from confrere_common.config import Run
from confrere_common.model import build_model, shared_weights
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState


def fresh(folder: Folder, run: Run) -> ServerState:
    """Return the state before the first round of the run in *folder*."""
    if run.stage == "describe":
        return ServerState(round=0, weights={}, step={})
    weights = shared_weights(build_model(run, run.seeds[0]))
    if folder.order.warm_start:
        release = load((folder.path / "warm.safetensors").read_bytes())
        # What the run keeps at its sites they begin with themselves.
        weights |= {name: tensor.float() for name, tensor in release.items() if name in weights}
    return ServerState(round=0, weights=weights, step={})
