"""What a site may answer in a federated evaluation: counts in cells that are never small.

The coordinator wants a pooled ROC curve and calibration, not scores. So the site tells, for each
class, how many images of it and of the others score in which range (``common.tally``). The ranges
are found by halving the grid while a half holds enough patients; what is left over is joined to its
neighbour. So a range's ends tell nothing finer than that one half of a range was too small.

The rules, each for a reason:

- A cell holds images of at least *smallest* different patients, or it is not told.
- Images of a class with fewer patients take no part at all, not even among the others of another
  class: the difference of two counts would give them away.
- Of two classes only the second is told: the first is its mirror, and the same patients cut at two
  places would differ by a few.

What this does not do: somebody who asks twice, with one patient more, sees a count change; only
differential privacy bounds that, so a site should answer for one encoder once. And of three classes
or more, the same patients are cut along scores that are not independent of each other: whoever
makes two of them run alike, by weights of their own, learns counts smaller than a cell.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from confrere_client.evaluation.calibration import must_be_probabilities
from confrere_client.halving import cells
from confrere_client.measure.intervals import Floats, Truth
from confrere_common.errors import DataError
from confrere_common.tally import ClassTally, step_of

SMALLEST = 10
"""Patients in a cell, where the site's policy says nothing else."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What leaves the site."""

    classes: int
    smallest: int
    """Patients that each cell holds at least."""

    tallies: tuple[ClassTally, ...]
    """Of the classes that are told; others were withheld."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold: all that leaves."""
        tallies = [tally.as_dict() for tally in self.tallies]
        return {"classes": self.classes, "smallest": self.smallest, "tallies": tallies}


def answer(scores_NK: Floats, truth: Truth, *, smallest: int = SMALLEST) -> Answer:
    """Return what may be told of a model's probabilities on the site's test images.

    Guarantee: every count that leaves is of images of at least *smallest* patients, no two counts
    of a tally share an image, and images of a class of fewer patients change nothing that leaves.
    DataError where scores are no probabilities or *smallest* is under 2.
    """
    if smallest < 2:
        raise DataError(f"cells of {smallest} patients would show a single one: ask for 2 or more.")
    must_be_probabilities(scores_NK)
    told = [kind for kind in range(scores_NK.shape[1]) if _patients(truth, kind) >= smallest]
    rows = np.flatnonzero(np.isin(truth.labels, told))
    kept, scores = truth.at(rows), scores_NK[rows]
    # Two classes are one question; with one class there is none.
    asked = told if len(told) > 2 else told[1:]
    return Answer(
        classes=scores_NK.shape[1],
        smallest=smallest,
        tallies=tuple(_tally(kind, scores[:, kind], kept, smallest) for kind in asked),
    )


def _patients(truth: Truth, kind: int) -> int:
    return len(np.unique(truth.patients[truth.labels == kind]))


def _tally(kind: int, scores_N: Floats, truth: Truth, smallest: int) -> ClassTally:
    step_N, mine_N = step_of(scores_N), truth.labels == kind
    return ClassTally(
        kind=kind,
        positives=cells(step_N[mine_N], truth.patients[mine_N], smallest),
        negatives=cells(step_N[~mine_N], truth.patients[~mine_N], smallest),
    )
