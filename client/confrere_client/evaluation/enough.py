"""Of what enough patients are known: which structures, findings and classes a site may tell of.

The two sides of every structure, images that have it and images that lack it, add up to the same
held-out images. So a side that is withheld is what others add up to, less the side that is told: a
structure is told of whole or not at all. What is not looked at: what three or more make out of each
other (an organ less two kinds of lesion that fill nearly all of it); and cells of two whose scores
run alike, as whoever makes the model can have it: the same images, cut at two places, then differ
by a few.

Shapes: N images, C structures or findings.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.finetune.lesson import Lesson, marked
from confrere_common.finetune import Finetune
from confrere_common.task import TASKS

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


def told_whole(has_NC: Flags, patients_N: NDArray[np.int64], smallest: int) -> Sequence[int]:
    """Return the structures of which both sides may be told: *has_NC* says which images have them.

    Guarantee: the sides of each hold images of nobody or of *smallest* patients at least; and where
    a side of one lies within a side of another, so does what the larger has more than the smaller.
    """
    told: list[int] = []
    for kind, has_N in enumerate(has_NC.T):
        others = [has_N, *(has_NC[:, one] for one in told)]
        if all(_fit(has_N, other_N, patients_N, smallest) for other_N in others):
            told.append(kind)
    return told


def told_apart(has_NC: Flags, patients_N: NDArray[np.int64], smallest: int) -> Sequence[int]:
    """Return what ``told_whole`` does of findings: one that all images have, or none, is left out.

    Its scores would be told apart from nothing.
    """
    kinds = np.flatnonzero(has_NC.any(axis=0) & ~has_NC.all(axis=0))
    return [int(kinds[n]) for n in told_whole(has_NC[:, kinds], patients_N, smallest)]


def _fit(one_N: Flags, other_N: Flags, patients_N: NDArray[np.int64], smallest: int) -> bool:
    """Say whether no count of one side less that of another is of a few patients.

    Of a structure with itself: whether neither of its sides is of a few.
    """
    both = {
        (x, y): len(np.unique(patients_N[(one_N == x) & (other_N == y)]))
        for x, y in product((True, False), repeat=2)
    }
    if one_N is other_N:
        return all(n == 0 or n >= smallest for n in both.values())
    # Where nobody has the one without the other, who has the other alone is the counts' difference;
    # and where nobody has both, or everybody one of them, it is so of one and the other's absence.
    pairs = [(both[x, y], both[not x, not y]) for x, y in both]
    return not any(few == 0 and 0 < more < smallest for few, more in pairs)


def scorable(finetune: Finetune, images: Images, rows: Rows, smallest: int) -> Rows:
    """Return which of *rows* would count in what a site tells; none where it may tell nothing."""
    patients_N = images.catalog.patients[rows]
    lesson = Lesson(images=images, rows=rows, finetune=finetune)
    if not len(rows):
        return rows
    if TASKS.member(finetune.task.name).marks == "mask":
        return rows if told_whole(lesson.holds, patients_N, smallest) else rows[:0]
    sides_NC = _sides(lesson)
    if sides_NC is not None:
        return rows if told_apart(sides_NC, patients_N, smallest) else rows[:0]
    kinds, labels_N = range(len(finetune.classes or ())), lesson.labels
    large = [k for k in kinds if len(np.unique(patients_N[labels_N == k])) >= smallest]
    if finetune.task.name == "retrieval":  # each class is told for itself, where there is any left
        return rows[np.isin(labels_N, np.intersect1d(large, _others(lesson).labels))]
    return rows[np.isin(labels_N, large if len(large) > 1 else [])]


def averaged(finetune: Finetune, images: Images, rows: Rows, smallest: int) -> Rows:
    """Return which of *rows* a task's one leading figure may be told of; none where it may not.

    Guarantee: it is a mean over *smallest* patients or more (Dice), or ranks as many against as
    many (areas, precision): a class of fewer takes no part, and where fewer have a finding, a box
    of a class or what is normal, or lack it, nothing is told.
    """
    patients_N = images.catalog.patients[rows]
    if not len(rows):
        return rows
    marks = TASKS.member(finetune.task.name).marks
    if marks == "mask":
        return rows if len(np.unique(patients_N)) >= smallest else rows[:0]
    lesson = Lesson(images=images, rows=rows, finetune=finetune)
    has_NC = _sides(lesson)
    if has_NC is None:
        return scorable(finetune, images, rows, smallest)
    # Of a finding some images may tell nothing: they are on neither side.
    several = finetune.task.knobs.get("kind") == "multilabel"
    lacks_NC = np.asarray(lesson.findings == 0) if several else ~has_NC
    sides = [_behind(flags_NC, patients_N) for flags_NC in (has_NC, lacks_NC)]
    few = any(0 < count < smallest for counts in sides for count in counts)
    # Boxes are ranked among boxes: all images may have some.
    ranks = any(has and (lacks or marks == "boxes") for has, lacks in zip(*sides, strict=True))
    return rows if ranks and not few else rows[:0]


def _behind(flags_NC: Flags, patients_N: NDArray[np.int64]) -> list[int]:
    """Return the patients behind the images that have each."""
    return [len(np.unique(patients_N[flags_N])) for flags_N in flags_NC.T]


def _sides(lesson: Lesson) -> Flags | None:
    """Return which images have what is told apart from its absence; None for exclusive classes."""
    finetune = lesson.finetune
    boxed = TASKS.member(finetune.task.name).marks == "boxes"
    if boxed or finetune.task.knobs.get("kind") == "multilabel":
        return lesson.holds
    if finetune.normal is not None:
        # Without a normal image of anybody else there is nothing that an image could lie beside.
        left = (_others(lesson).labels == finetune.normal).any()
        return np.asarray((lesson.labels == finetune.normal) & left)[:, None]
    return None


def _others(lesson: Lesson) -> Lesson:
    """Return the marked images of patients who have none in a lesson: they may be learned from."""
    images, patients = lesson.images, lesson.images.catalog.patients
    rows = np.flatnonzero(~np.isin(patients, patients[lesson.rows]))
    return replace(lesson, rows=rows[marked(images, lesson.finetune)[rows]])
