"""How well boxes are found: average precision at one overlap and over ten, and FROC.

Matching is COCO's (https://arxiv.org/abs/1405.0312): in each image and class, the surest box takes
the true box that it overlaps most, if it overlaps it enough and nobody took it; a second box on the
same object is a false alarm. Precision is made to fall only, and read at 101 recalls. Conventions:

- A class without a true box in the test set takes no part in a mean over classes; its boxes
  elsewhere are no false alarms of another class.
- An image without a true box has part through its false alarms.
- At most 100 boxes of an image and class count, the surest.
- A true box without an area is left out, and counted, where images are read; a predicted one
  overlaps nothing and is a false alarm.
- FROC asks for an overlap of 0.1 alone, and tells the largest share of true boxes that is found at
  no more than so many false alarms per image.

Boxes are (low corner, high corner) along X Y [Z]: 4 numbers in 2-D, 6 in 3-D.

Shapes: D draws, N images, P predicted and G true boxes of an image, A predicted boxes of them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.classification import mean_of_known
from confrere_client.evaluation.paired import Weighed
from confrere_client.measure.intervals import Floats
from confrere_client.measure.probe import Integers
from confrere_common.errors import DataError

AP = "AP at 0.5"
OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
"""IoU at which COCO's AP is averaged."""
RECALLS = np.linspace(0, 1, 101)
BOXES_AT_MOST = 100
ALARMS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False alarms per image at which FROC is read (https://doi.org/10.1016/j.media.2010.05.005)."""
FROC: Mapping[str, float] = {f"FROC at {Fraction(limit)}": limit for limit in ALARMS}
"""Figure -> the false alarms per image that it allows."""
FROC_OVERLAP = 0.1
"""A lesion is found when it is pointed at, not outlined (https://arxiv.org/abs/2106.00817)."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes of one image; scores are 1 where the boxes are the truth."""

    boxes: Floats
    """Shape (P, 4) or (P, 6)."""

    labels: Integers
    scores: Floats

    @staticmethod
    def true(boxes: Floats, labels: Integers) -> "Boxes":
        """Return the truth of one image."""
        return Boxes(boxes=boxes, labels=labels, scores=np.ones(len(labels)))


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The boxes of one class in all images, surest first, each a hit or a false alarm."""

    hit_A: NDArray[np.bool_]
    image_A: Integers
    scores_A: Floats
    true_N: Integers
    """True boxes in each image."""


def iou(ours_P: Floats, theirs_G: Floats) -> Floats:
    """Return the share of two boxes' union that both cover, shape (P, G); 0 without an area."""
    axes = ours_P.shape[1] // 2
    low = np.maximum(ours_P[:, None, :axes], theirs_G[None, :, :axes])
    high = np.minimum(ours_P[:, None, axes:], theirs_G[None, :, axes:])
    shared_PG = np.clip(high - low, 0, None).prod(axis=2)
    union_PG = _volume(ours_P)[:, None] + _volume(theirs_G)[None] - shared_PG
    return np.asarray(shared_PG / np.where(union_PG > 0, union_PG, 1))


def _volume(boxes: Floats) -> Floats:
    axes = boxes.shape[1] // 2
    return np.asarray(np.clip(boxes[:, axes:] - boxes[:, :axes], 0, None).prod(axis=1))


def matched(found: Sequence[Boxes], truth: Sequence[Boxes], kind: int, overlap: float) -> Matched:
    """Return how the boxes of class *kind* lie on the true ones at an IoU of *overlap*."""
    rows = [_match(mine, due, kind, overlap) for mine, due in zip(found, truth, strict=True)]
    hit_A = np.concatenate([hits for hits, _ in rows])
    scores_A = np.concatenate([scores for _, scores in rows])
    image_A = np.repeat(np.arange(len(rows)), [len(hits) for hits, _ in rows])
    order_A = np.argsort(-scores_A, kind="stable")
    return Matched(
        hit_A=hit_A[order_A],
        image_A=image_A[order_A],
        scores_A=scores_A[order_A],
        true_N=np.asarray([int((due.labels == kind).sum()) for due in truth]),
    )


def _match(
    found: Boxes, truth: Boxes, kind: int, overlap: float
) -> tuple[NDArray[np.bool_], Floats]:
    """Return, surest first, which boxes of one image hit, and their scores."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.labels[order] == kind][:BOXES_AT_MOST]
    overlaps_PG = iou(found.boxes[order], truth.boxes[truth.labels == kind])
    hits = np.zeros(len(order), np.bool_)
    if overlaps_PG.shape[1]:
        for number, overlaps_G in enumerate(overlaps_PG):
            best = int(overlaps_G.argmax())
            if overlaps_G[best] >= overlap:
                hits[number] = True
                overlaps_PG[:, best] = -1  # it is taken
    return hits, found.scores[order]


def average_precision(of: Matched) -> Weighed:
    """Return the area under precision and recall, read at 101 recalls; NaN without a true box."""

    def weighed(weights_DN: Floats) -> Floats:
        # One draw at a time: all of them over all boxes would not fit in memory.
        return np.asarray([_area(of, weights_N) for weights_N in weights_DN])

    return weighed


def _area(of: Matched, weights_N: Floats) -> float:
    """Return the mean precision at 101 recalls; it is 0 at recalls that are never reached."""
    due = float(weights_N @ of.true_N)
    if due <= 0:
        return float("nan")
    weights_A = weights_N[of.image_A]
    hits_A = np.cumsum(weights_A * of.hit_A)
    precision_A = hits_A / np.maximum(np.cumsum(weights_A), 1e-300)
    falling_A = np.maximum.accumulate(precision_A[::-1])[::-1]
    # A recall that is reached but for rounding is reached.
    first = np.searchsorted(hits_A / due, RECALLS - 1e-12)
    return float(np.append(falling_A, 0.0)[first].mean())


def froc(of: Matched, alarms: Sequence[float] = ALARMS) -> Mapping[float, Weighed]:
    """Return, for false alarms per image, the largest share of true boxes found at no more."""
    # Boxes of one score are decided together: only the last of them is a threshold.
    last_A = np.append(np.diff(of.scores_A) != 0, True)[: len(of.scores_A)]

    def found(weights_N: Floats, limit: float) -> float:
        due, weights_A = float(weights_N @ of.true_N), weights_N[of.image_A]
        kept_A = np.cumsum(weights_A * ~of.hit_A) <= limit * weights_N.sum() + 1e-9
        hits_A = np.where(kept_A & last_A, np.cumsum(weights_A * of.hit_A), 0)
        return float(hits_A.max(initial=0)) / due if due > 0 else float("nan")

    def at(limit: float) -> Weighed:
        return lambda weights_DN: np.asarray([found(each, limit) for each in weights_DN])

    return {limit: at(limit) for limit in alarms}


def measures(
    found: Sequence[Boxes], truth: Sequence[Boxes], names: Sequence[str]
) -> Mapping[str, Weighed]:
    """Return AP at 0.5 and over ten overlaps, FROC at seven points and their mean, and each class.

    Means are over classes; *names* are those of class 0, 1 and so on. DataError where images do not
    pair up or boxes are no boxes.
    """
    _must_fit(found, truth)
    area, points, lesions = {}, {}, {}
    for kind, name in enumerate(names):
        each = [matched(found, truth, kind, overlap) for overlap in OVERLAPS]
        area[name] = [average_precision(one) for one in each]
        points[name] = froc(matched(found, truth, kind, FROC_OVERLAP))
        lesions[name] = froc(each[0], (1.0,))[1.0]
    return {
        AP: _mean([over[0] for over in area.values()]),
        "AP over 0.5 to 0.95": _mean([one for over in area.values() for one in over]),
        "FROC mean": _mean([value for of in points.values() for value in of.values()]),
        **{title: _mean([of[at] for of in points.values()]) for title, at in FROC.items()},
        **{f"AP at 0.5 of {name}": over[0] for name, over in area.items()},
        **{f"found of {name} at 1 false alarm": share for name, share in lesions.items()},
    }


def _mean(values: Sequence[Weighed]) -> Weighed:
    """Return the mean over what is known in a draw."""

    def weighed(weights_DN: Floats) -> Floats:
        return mean_of_known(np.stack([value(weights_DN) for value in values], axis=1))

    return weighed


def _must_fit(found: Sequence[Boxes], truth: Sequence[Boxes]) -> None:
    if len(found) != len(truth):
        raise DataError(
            f"boxes found in {len(found)} images do not fit the truth of {len(truth)}: give one "
            "entry for each image, empty ones too."
        )
    for number, image in enumerate([*found, *truth]):
        if image.boxes.ndim != 2 or image.boxes.shape[1] not in (4, 6):
            raise DataError(
                f"the boxes of image {number % len(found)} have the shape {image.boxes.shape}: "
                "give (boxes, 4) in 2-D or (boxes, 6) in 3-D, (0, 4) where there is none."
            )
