"""A round's work on its way from the line to the worker: one file, and the name of it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from confrere_common.code import code_digest
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Purpose, Task
from confrere_common.pack import views
from confrere_common.secagg.messages import Delivery, decode, digest_of, encode
from confrere_common.storage import atomic_write
from confrere_common.weights import weights_digest

BEGUN = "begun.json"
"""In a run's folder: round -> keys of the errands that began it."""

TRIES = 3
"""Different weights from which one round is trained: a server that lost its last checkpoint to a
crash begins the round anew from others, and does so rarely."""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What the worker is given: small; the weights lie in a file."""

    key: str
    """Digest of run, round, seed and weights: equal errands have equal answers."""

    run_id: str
    round: int
    path: Path
    code: str
    """Digest of the code that was approved: an installation may change under a running daemon."""

    masked: bool = False
    """Whether the update leaves under masks; what was delivered for them lies beside the task."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for the worker's line of JSON."""
        return {**vars(self), "path": str(self.path)}


def errand_key(run_id: str, task: Task, delivery: Delivery | None = None) -> str:
    """Return the name under which the answer to *task* is kept; equal runs share none.

    Each try of a masked round has an answer of its own, for the masks differ.
    """
    said = f"{run_id}\n{task.run}\n{task.round}\n{task.seed}\n{weights_digest(task.weights)}"
    if delivery is not None:
        said += f"\n{digest_of(delivery)}"
    if task.evaluate:
        said += "\nevaluate" if task.part == "test" else f"\nevaluate {task.part}"
    return hashlib.sha256(said.encode()).hexdigest()


def spool(
    folder: Path, run_id: str, task: Task, key: str, delivery: Delivery | None = None
) -> Errand:
    """Write *task* for the worker, in place of an older one. OSError when the disk is full.

    With a *delivery*, the update shall leave under masks.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.iterdir():
        old.unlink()
    path = folder / f"{key}.task"
    plain = {"run": task.run, "round": task.round, "seed": task.seed}
    said = json.dumps({**plain, "evaluate": task.evaluate, "part": task.part})
    with path.open("wb") as file:
        file.writelines(views(task.weights, {"task": said}))
    if delivery is not None:
        atomic_write(path.with_suffix(".delivery"), encode(delivery))
    return Errand(
        key=key,
        run_id=run_id,
        round=task.round,
        path=path,
        code=code_digest(),
        masked=delivery is not None,
    )


def may_begin(folder: Path, round: int, key: str, purpose: Purpose = "round") -> bool:
    """Note that an errand begins; False when the round was begun with other weights too often.

    An approval is for so many rounds: a coordinator that asks for one again and again, each time
    from other weights, would get as many updates as it likes. Of scores something leaves of one
    model alone, as the plan says: what is told of two may differ by a patient.
    """
    begun = _begun(folder)
    keys = begun.setdefault(str(round) if purpose == "round" else f"{purpose} {round}", [])
    if key in keys:
        return True
    if len(keys) >= (TRIES if purpose == "round" else 1):
        return False
    keys.append(key)
    atomic_write(folder / BEGUN, json.dumps(begun).encode())
    return True


def rounds_begun(folder: Path) -> list[int]:
    """Return the rounds that were begun to train, as far as the note of them can be read."""
    return [int(name) for name in _begun(folder) if name.isdecimal()]


def _begun(folder: Path) -> dict[str, list[str]]:
    try:
        return dict(json.loads((folder / BEGUN).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def read_spooled(path: Path) -> Task:
    """Return the task in a file; ExchangeError when it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["task"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
        raise ExchangeError(f"a spooled task cannot be read: {type(fault).__name__}") from None
    return Task(
        run=said["run"],
        round=said["round"],
        seed=said["seed"],
        weights=weights,
        evaluate=said["evaluate"],
        part=said["part"],
    )


def read_delivery(path: Path) -> Delivery:
    """Return what was delivered with the task in a file; ExchangeError when it is damaged."""
    return decode(Delivery, path.with_suffix(".delivery").read_bytes())
