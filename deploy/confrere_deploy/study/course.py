"""One training that is looked at after each round: which was best, and when it is enough.

Beside the checkpoints of a job lie ``course.json`` (the validation score of each round) and
``best.safetensors`` (the shared weights of the best), so that a resumed job knows what it knew.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load, save

from confrere_common.errors import CheckpointError
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_server.store import ServerState

Examine: TypeAlias = Callable[[Weights], float]
"""Shared weights -> validation score, higher is better; NaN where there is none."""

COURSE, BEST = "course.json", "best.safetensors"


@dataclass(kw_only=True)
class Course:
    """What validation said of each round so far."""

    folder: Path
    digest: str
    patience: int | None
    examine: Examine
    scores: dict[int, float] = field(default_factory=dict)
    """Round -> score; 0 is the start."""

    def __post_init__(self) -> None:
        kept = _kept(self.folder / COURSE)
        if kept is not None and kept[0] == self.digest:
            self.scores = dict(kept[1])

    @property
    def best(self) -> int:
        """Return the best round, the earlier of equals; the last where none has a score."""
        known = {number: score for number, score in self.scores.items() if math.isfinite(score)}
        if not known:
            return max(self.scores, default=0)
        return max(known, key=lambda number: (known[number], -number))

    def enough(self, state: ServerState) -> bool:
        """Note the score of *state* and say whether patience is at its end."""
        if state.round and state.round not in self.scores:
            self._note(state)
        if self.patience is None or not any(map(math.isfinite, self.scores.values())):
            return False
        return state.round - self.best >= self.patience

    def chosen(self, last: ServerState) -> Weights:
        """Return the weights of the best round; those of the last where that is the best."""
        self.enough(last)  # nobody asked after the last round, which may be the best
        if self.best == last.round or not self.scores:
            return last.weights
        try:
            return load((self.folder / BEST).read_bytes())
        except (OSError, SafetensorError) as fault:
            raise CheckpointError(
                f"the best round's weights cannot be read ({type(fault).__name__}): start anew."
            ) from None

    def _note(self, state: ServerState) -> None:
        # Of a history that is done again, nothing later is known.
        self.scores = {n: score for n, score in self.scores.items() if n < state.round}
        self.scores[state.round] = self.examine(state.weights)
        if self.best == state.round:
            plain = {name: tensor.contiguous() for name, tensor in state.weights.items()}
            atomic_write(self.folder / BEST, save(plain))
        told = {"digest": self.digest, "scores": {str(n): s for n, s in self.scores.items()}}
        atomic_write(self.folder / COURSE, json.dumps(told).encode())


def _kept(path: Path) -> tuple[str, Mapping[int, float]] | None:
    """Return the digest and the scores of a file; None where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
        return found["digest"], {int(number): float(s) for number, s in found["scores"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
