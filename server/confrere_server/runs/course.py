"""One training that is looked at after each round: which was best, and when it is enough.

Beside the checkpoints of a job lie ``course.json`` (what validation said of each round) and
``best/`` (a checkpoint of the best's shared weights), so that a resumed job knows what it knew. A
simulation, a hospital's own fine-tuning and a federation of hospitals choose by the same rule.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from confrere_common.checkpoint import Checkpoint, folder_of, load_checkpoint, save_checkpoint
from confrere_common.errors import CheckpointError
from confrere_common.storage import atomic_write
from confrere_common.weights import Weights
from confrere_server.store import ServerState

Score: TypeAlias = tuple[float, int]
"""A validation score, higher is better, and the images that it is of; NaN where there is none."""

Heard: TypeAlias = Mapping[str, Score | str]
"""Who validated a round -> what came of it; or why nothing did."""

Examine: TypeAlias = Callable[[ServerState], Heard]
"""What a round joined -> what validation says of it."""

COURSE, BEST = "course.json", "best"


def standing(heard: Mapping[int, Heard]) -> tuple[int, int]:
    """Return the best round, the earlier of equals, and how many since were held against it.

    Two rounds are compared by the mean over images of those who validated both: else a round would
    be good because a hard site was away. Where nobody did, the later one stands. 0, 0 without any
    score.
    """
    best, since, champion = 0, 0, dict[str, Score]()
    for number in sorted(heard):
        scores = _known(heard[number])
        if not scores:
            continue
        both = scores.keys() & champion.keys()
        if both and not _mean(scores, both) > _mean(champion, both):
            since += 1
        else:
            best, since, champion = number, 0, scores
    return best, since


def _known(heard: Heard) -> dict[str, Score]:
    return {
        who: said
        for who, said in heard.items()
        if not isinstance(said, str) and math.isfinite(said[0])
    }


def _mean(scores: Mapping[str, Score], whose: Iterable[str]) -> float:
    some = [scores[who] for who in sorted(whose)]
    images = sum(count for _, count in some)
    # Of one alone it is the very score, so that equal ones stay equal.
    return some[0][0] if len(some) == 1 else sum(score * n for score, n in some) / images


@dataclass(kw_only=True)
class Course:
    """What validation said of each round so far."""

    folder: Path
    digest: str
    patience: int | None
    examine: Examine
    heard: dict[int, Heard] = field(default_factory=dict)
    """Round -> what was said of it; 0 is the start."""

    def __post_init__(self) -> None:
        kept = _kept(self.folder / COURSE)
        if kept is not None and kept[0] == self.digest:
            self.heard = dict(kept[1])

    @property
    def chosen(self) -> int | None:
        """Return the best round; None where none has a score."""
        return standing(self.heard)[0] or None

    @property
    def best(self) -> int:
        """Return the best round; the last where none has a score."""
        return self.chosen or max(self.heard, default=0)

    @property
    def scores(self) -> dict[int, float]:
        """Return round -> mean score over all who validated it; NaN where nobody did."""
        known = {number: _known(said) for number, said in self.heard.items()}
        return {
            number: _mean(scores, scores) if scores else math.nan
            for number, scores in known.items()
        }

    def enough(self, state: ServerState) -> bool:
        """Note what is said of *state* and say whether patience is at its end."""
        self._forget_after(state.round)
        if state.round and state.round not in self.heard:
            self._note(state)
        return self.patience is not None and standing(self.heard)[1] >= self.patience

    def kept(self, last: ServerState) -> Weights:
        """Return the weights of the best round; those of the last where that is the best.

        CheckpointError where they were lost, or are damaged.
        """
        self.enough(last)  # nobody asked after the last round, which may be the best
        if self.best in (0, last.round):
            return last.weights
        found = load_checkpoint(folder_of(self.folder / BEST, self.best))
        if found.digest != self.digest:
            raise CheckpointError(f"{BEST}/ holds weights of another run: start anew.")
        return found.parts["weights"]

    def _forget_after(self, round: int) -> None:
        """Of a history that is done again, nothing later is known."""
        if max(self.heard, default=0) <= round:
            return
        # Where the best is to be done again, no weights of a round before it are kept.
        lost = (self.chosen or 0) > round
        self.heard = {} if lost else {n: said for n, said in self.heard.items() if n <= round}

    def _note(self, state: ServerState) -> None:
        self.heard[state.round] = self.examine(state)
        if self.chosen == state.round:
            best = Checkpoint(
                round=state.round, digest=self.digest, parts={"weights": state.weights}, values={}
            )
            save_checkpoint(self.folder / BEST, best, keep=1)
        told = {"digest": self.digest, "heard": {str(n): dict(h) for n, h in self.heard.items()}}
        atomic_write(self.folder / COURSE, json.dumps(told).encode())


def _kept(path: Path) -> tuple[str, Mapping[int, Heard]] | None:
    """Return the digest and what was heard; None where the file is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
        return found["digest"], {
            int(number): {who: _said(said) for who, said in heard.items()}
            for number, heard in found["heard"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _said(plain: Sequence[float] | str) -> Score | str:
    if isinstance(plain, str):
        return plain
    score, images = plain
    return float(score), int(images)
