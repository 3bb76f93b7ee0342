"""A fine-tuned network as a release holds it: the whole task, and the run that made it.

``task.safetensors`` holds every weight of encoder and head, ``task.json`` the run: what is asked
for, which classes there are, what an input is. The card of the encoder beside them holds the
digest of both, so that none of them can be exchanged alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from confrere_common.config import Run
from confrere_common.errors import CheckpointError, ConfigError
from confrere_common.finetune import Finetune
from confrere_common.loading import COMMON_FAMILIES, dump, parse_run
from confrere_common.manifest import NAME as MANIFEST
from confrere_common.manifest import file_hash, listed
from confrere_common.model import build_model, input_of, load_weights, task_of
from confrere_common.pack import views
from confrere_common.release import Card, load_release
from confrere_common.storage import atomic_write
from confrere_common.task import FineTask
from confrere_common.weights import Weights, differing

ENCODER, NETWORK, RUN = "encoder.safetensors", "task.safetensors", "task.json"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A fine-tuned network, ready to be asked."""

    task: FineTask
    """Encoder (``task.encoder``), head and classes, in evaluation mode, on the CPU."""

    run: Run
    """What it was trained by."""

    card: Card
    """That of its encoder: channels, size and preprocessing of an input."""

    digest: str
    """SHA-256 of its weights' file."""

    @property
    def finetune(self) -> Finetune:
        """Return the section of its run."""
        return _section(self.run, RUN)

    @property
    def name(self) -> str:
        """Return what its task is called (see: confrere tasks)."""
        return self.finetune.task.name


def save_network(folder: Path, run: Run, weights: Weights) -> dict[str, str]:
    """Write the network of a run that fine-tunes; return file -> SHA-256, for its encoder's card.

    Where heads stay at their sites there is no whole network: the run alone is written.
    """
    (folder / NETWORK).unlink(missing_ok=True)  # of an older run in the same place
    atomic_write(folder / RUN, dump(run).encode())
    names = [RUN]
    if _section(run, RUN).head == "shared":
        atomic_write(folder / NETWORK, views(weights))
        names.append(NETWORK)
    return {name: file_hash(folder / name) for name in names}


def load_task(release: Path, key: Ed25519PublicKey | None = None) -> Network:
    """Return the fine-tuned network in a release's folder, or in the folder of a fine-tuning.

    Guarantee: where network, run or encoder is not the file that the card names, CheckpointError;
    so it is where any file of a signed release was altered, and with a *key* where nobody signed.

    ConfigError where the folder holds no fine-tuning, or a network without its head.
    """
    if not release.exists():
        raise ConfigError(["there is nothing: give the folder of a release."], str(release))
    path = release / ENCODER if release.is_dir() else release
    folder = path.parent
    _, card = load_release(path, key)
    must_be_named_by(card, folder)
    _must_be_vouched_for(folder, card)
    run = _run_in(folder)
    _must_travel(run, folder)
    try:
        content = (folder / NETWORK).read_bytes()
    except OSError as fault:
        raise CheckpointError(
            f"{folder / NETWORK} cannot be read: {fault.strerror}. It is the network itself: get "
            "the release again."
        ) from None
    task = _built(run, card, content)
    return Network(task=task, run=run, card=card, digest=hashlib.sha256(content).hexdigest())


def must_be_named_by(card: Card, folder: Path) -> None:
    """Raise CheckpointError where a file that the card names is another one in *folder*."""
    for name, due in card.network.items():
        if file_hash(folder / name) != due:
            raise CheckpointError(
                f"{folder / name} is not the file that encoder.json describes: it was altered, or "
                "is of another run. Copy the folder again."
            )


def _must_be_vouched_for(folder: Path, card: Card) -> None:
    """Raise CheckpointError where a network lies there that neither card nor manifest names.

    The card of a release of an older version names none: its manifest does.
    """
    signed = listed(folder) if (folder / MANIFEST).exists() else frozenset()
    loose = [name for name in (NETWORK, RUN) if name not in {*card.network, *signed}]
    if loose and (folder / NETWORK).exists():
        raise CheckpointError(
            f"nobody vouches for {loose[0]} in {folder}: neither encoder.json nor a {MANIFEST} "
            "names it. It is of an older version: release it first (confrere export)."
        )


def _run_in(folder: Path) -> Run:
    """Return the run that fine-tuned; ConfigError where there is none."""
    path = folder / RUN
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            [
                f"holds no {RUN}: it is an encoder alone, of a pre-training. confrere finetune "
                "makes a network that answers; confrere embed gives the encoder's features."
            ],
            str(folder),
        ) from None
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(f"{path} cannot be read: get the release again.") from None
    try:
        run = parse_run(plain, COMMON_FAMILIES, str(path))
    except (ConfigError, TypeError, AttributeError) as fault:
        raise CheckpointError(
            f"{path} is no run that this version reads; bring the version that its card names. "
            f"{fault}"
        ) from None
    _section(run, str(path))
    return run


def _section(run: Run, where: str) -> Finetune:
    found = task_of(run)
    if found is None:
        raise ConfigError(["is a run that fine-tunes nothing: there is no network."], where)
    return found


def _must_travel(run: Run, folder: Path) -> None:
    if _section(run, RUN).head == "local":
        raise ConfigError(
            [
                "holds no head: the run kept it at each site (finetune.head: local), and nobody "
                "else can ask it. Fine-tune this encoder on your own labels (confrere finetune), "
                "or let the federation share its head (finetune.head: shared)."
            ],
            str(folder),
        )


def _built(run: Run, card: Card, content: bytes) -> FineTask:
    """Return the network with its weights; CheckpointError where these are not all and its own."""
    try:
        task, weights = build_model(run, run.seeds[0]), load(content)
    except (ConfigError, SafetensorError, RuntimeError) as fault:
        raise CheckpointError(f"{NETWORK} cannot be built as {RUN} says: {fault}") from None
    if not isinstance(task, FineTask) or input_of(run) != (card.channels, card.size):
        raise CheckpointError(f"{RUN} and encoder.json are of two networks: copy both again.")
    _must_be_whole(task, weights)
    load_weights(task, weights)
    return task.eval()


def _must_be_whole(task: FineTask, weights: Mapping[str, Tensor]) -> None:
    own = task.state_dict()
    kept = sorted(name for name in own.keys() - weights.keys() if not task.is_shared(name))
    if kept:
        raise ConfigError(
            [
                f"{len(kept)} weights stayed at the sites, first '{kept[0]}': nobody else has the "
                "whole network. Fine-tune without federation.personal and mixings that keep some."
            ],
            NETWORK,
        )
    odd = differing(own, weights)
    if odd:
        raise CheckpointError(
            f"{NETWORK} holds another network than {RUN} says: they differ in {len(odd)} weights, "
            f"first '{odd[0]}'. Copy both again."
        )
