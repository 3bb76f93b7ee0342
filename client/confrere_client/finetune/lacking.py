"""Which of a run's classes a site lacks: what becomes of them in its loss, and how that is said.

It is said to whoever simulates, and to the hospital whose site it is; nobody else is told.

Shapes: K classes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from confrere_common.finetune import Finetune
from confrere_common.task import TASKS

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

ONE = {"label": "image", "mask": "mask", "boxes": "box"}
"""What is marked in an image -> what one of a class is called."""

LISTED = 10
"""Classes that a sentence names at most."""


def left_out(finetune: Finetune, counts_K: Counts) -> Flags:
    """Say which classes a site leaves out of its loss, (K,), of how many of its images have each.

    A site of which no image has any class leaves out none: somebody looked and found nothing, and
    that is all that it can teach. Of classes in an order one between others stays, as thresholds
    do that have images on either side.
    """
    there_K = counts_K > 0
    if finetune.missing == "keep" or not there_K.any() or not _tells_apart(finetune):
        return np.zeros(len(counts_K), np.bool_)
    if finetune.task.knobs.get("kind") != "ordinal":
        return ~there_K
    first, last = np.flatnonzero(there_K)[[0, -1]]
    places = np.arange(len(counts_K))
    return np.asarray((places < first) | (places > last))


def lacking(finetune: Finetune, counts_K: Counts, who: str) -> Iterator[str]:
    """Yield which classes *who* lacks, and what becomes of them; nothing where it has them all.

    Guarantee: nothing is said of the images but which of the run's classes none of them has, and
    which one they have where they have no other.
    """
    names = finetune.classes or ()
    absent_K = np.asarray(counts_K) == 0
    if not absent_K.any() or not _tells_apart(finetune):
        return
    one = ONE[TASKS.member(finetune.task.name).marks]
    if absent_K.all():
        yield f"{who} has no {one} of any class: none is left out, it teaches where they are not."
        return
    out_K = left_out(finetune, counts_K)
    if out_K.any():
        yield f"{who} has no {one} of {listed(names, out_K)}: left out of its loss."
    if (kept_K := absent_K & ~out_K).any():
        why = "so that it teaches that there is none"
        if finetune.missing != "keep":
            why = "as it has images of classes on either side"
        yield f"{who} has no {one} of {listed(names, kept_K)}: kept in its loss, {why}."
    if out_K.any() and one == "image" and (~out_K).sum() == 1 and not _several(finetune):
        yield (
            f"{who} has images of {listed(names, ~out_K)} alone, and nothing is left to tell it "
            "from: it teaches nothing. With finetune.missing: keep it would."
        )


def listed(names: Sequence[str], which_K: Flags) -> str:
    """Return the names of some classes, the first few of many."""
    found = [name for name, named in zip(names, which_K, strict=True) if named]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(found[:LISTED]) + more


def _tells_apart(finetune: Finetune) -> bool:
    return TASKS.member(finetune.task.name).tells_apart


def _several(finetune: Finetune) -> bool:
    return bool(finetune.task.knobs.get("kind") == "multilabel")
