"""Pool what sites tell of a classifier's scores: ROC, AUC with its error, and calibration.

Of how normal images look, each beside its site's own normal ones, the AUC of what is normal against
the rest is the AUROC of anomalies. That score is no probability: it has no calibration.

Within a cell, scores are taken to lie as under the bell curve, over the logit, that fits the site's
cells of that side best: spread evenly, the few in a wide outer cell would lie too far out. What
that may be wrong by is known: two images in cells that do not overlap are in a known order, so only
pairs in overlapping cells are in doubt, and the AUC lies between none and all of them being right.

On simulated sites (three of 300 patients, cells of 10, normal logits, sites alike or of unlike
skill) the pooled AUC was within 0.02 of the exact one; spread evenly it missed by 0.06. It is worse
where a model scores all images nearly alike: on dermatoscopy after five rounds (542 test images of
three sites, cells of 5) classes of 20 images and more were 0.01 to 0.06 off, with an error of 0.10
to 0.20; of rarer ones nothing could be told. Scores surer than a logit of 8 are one step.

Shapes: E steps of the grid of scores.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.model import task_of
from confrere_common.tally import EDGES, STEPS, Cell, ClassTally, read_tally

Floats: TypeAlias = NDArray[np.float64]

BINS = 15
"""Bars of a reliability diagram."""

CELLS = 3
"""Cells of a side from which its own curve can be found."""

FITS = 30
"""Steps in which the bell curve is fitted; it hardly moves after ten."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What all sites together say of one class against the rest."""

    kind: int
    sites: tuple[str, ...]
    """Sites that told something of it."""

    positives: int
    negatives: int
    auc: float
    error: float
    """The AUC over the very scores lies within this of ``auc``."""

    false_alarms: Floats
    """The ROC curve: share of negatives that score at least an edge of the grid, ascending."""

    sensitivity: Floats
    """Share of positives that do."""

    confidence: Floats
    """The reliability curve: mean score in each bar; NaN in an empty one."""

    frequency: Floats
    """Share of images in it that are of the class."""

    calibration_error: float
    """Mean distance of the two, each bar weighing as its images (class-wise ECE, from cells)."""


def pool(answers: Mapping[str, Mapping[str, Any]], classes: int) -> Mapping[int, Pooled]:
    """Return class -> what the sites' answers come to; a class of which no site tells is absent.

    ExchangeError names the site whose answer is not sound.
    """
    read = {site: read_tallies(site, plain, classes) for site, plain in answers.items()}
    found = {}
    for kind in range(classes):
        told = {site: of[kind] for site, of in read.items() if kind in of}
        told = {site: of for site, of in told.items() if of.positives or of.negatives}
        pooled = _pooled(kind, told)
        if pooled is not None:
            found[kind] = pooled
    return found


def together(said: Mapping[str, Mapping[str, Any] | str], run: Run) -> dict[str, Any]:
    """Return what sites said of a model, and what that comes to, as plain values for a report.

    A site's own figures are from its own counts alone; one that said why it tells nothing is there
    with its reason. ``auc`` of several classes is the mean of each against the rest. Calibration
    is left out where scores are no probabilities, as of what is normal.
    """
    task = task_of(run)
    likely = task is None or task.normal is None
    names = (task.classes or ()) if task is not None else ()
    told = {site: plain for site, plain in said.items() if not isinstance(plain, str)}
    sites = {
        site: {"refused": plain} if isinstance(plain, str) else _of_site(plain, len(names))
        for site, plain in sorted(said.items())
    }
    each = pool(told, len(names))
    return {
        **_mean(each.values()),
        "classes": [
            {**_plain(names[kind], one), **(_calibration(one) if likely else {})}
            for kind, one in each.items()
        ],
        "sites": sites,
    }


def _of_site(plain: Mapping[str, Any], classes: int) -> dict[str, Any]:
    found = pool({"": plain}, classes)
    images = [
        sum(n for side in ("positives", "negatives") for _, _, n in one[side])
        for one in plain["tallies"]
    ]
    return {**site_facts(plain), "images": max(images, default=0), **_mean(found.values())}


def site_facts(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report shows of an answer besides its figures."""
    return {name: plain[name] for name in ("smallest", "enrolled") if name in plain}


def _mean(found: Iterable[Pooled]) -> dict[str, float]:
    each = list(found)
    if not each:
        return {}
    areas, errors = [one.auc for one in each], [one.error for one in each]
    return {"auc": float(np.mean(areas)), "error": float(np.mean(errors))}


def _plain(name: str, one: Pooled) -> dict[str, Any]:
    points = dict.fromkeys(  # each once, in their order: of a fine grid most say nothing new
        zip(one.false_alarms.round(4).tolist(), one.sensitivity.round(4).tolist(), strict=True)
    )
    return {
        "name": name,
        "sites": list(one.sites),
        "positives": one.positives,
        "negatives": one.negatives,
        "auc": one.auc,
        "error": one.error,
        "false_alarms": [x for x, _ in points],
        "sensitivity": [y for _, y in points],
    }


def _calibration(one: Pooled) -> dict[str, Any]:
    bars = {bar: [_number(x) for x in getattr(one, bar)] for bar in ("confidence", "frequency")}
    return {"calibration_error": one.calibration_error, **bars}


def _number(value: float) -> float | None:
    """Return a number as JSON can hold it; None for none."""
    return round(float(value), 6) if np.isfinite(value) else None


def read_tallies(site: str, plain: Mapping[str, Any], classes: int) -> Mapping[int, ClassTally]:
    """Return class -> a site's tally; ExchangeError names the site whose answer is not sound."""
    try:
        if plain["classes"] != classes:
            raise ExchangeError(f"it tells of {plain['classes']!r:.40} classes, not of {classes}.")
        tallies = [read_tally(each, classes) for each in plain["tallies"]]
        if len({tally.kind for tally in tallies}) < len(tallies):
            raise ExchangeError("it tells of a class twice.")
    except ExchangeError as fault:
        raise ExchangeError(f"the evaluation of site '{site}' is left out: {fault}") from None
    except (KeyError, TypeError):
        raise ExchangeError(f"the evaluation of site '{site}' is no answer to one.") from None
    return {tally.kind: tally for tally in tallies}


def _pooled(kind: int, told: Mapping[str, ClassTally]) -> Pooled | None:
    """Return what tallies of one class come to; None without images on both sides."""
    positives = [cell for of in told.values() for cell in of.positives]
    negatives = [cell for of in told.values() for cell in of.negatives]
    if not positives or not negatives:
        return None
    sides = [_sides(of) for of in told.values()]
    positive_E, negative_E = (np.sum(each, axis=0) for each in zip(*sides, strict=True))
    low, high = bounds(positives, negatives)
    auc = area(positive_E, negative_E)
    confidence, frequency, gap = _reliability(positive_E, negative_E)
    return Pooled(
        kind=kind,
        sites=tuple(sorted(told)),
        positives=sum(images for _, _, images in positives),
        negatives=sum(images for _, _, images in negatives),
        auc=auc,
        error=max(auc - low, high - auc),
        false_alarms=_at_least(negative_E),
        sensitivity=_at_least(positive_E),
        confidence=confidence,
        frequency=frequency,
        calibration_error=gap,
    )


def _sides(told: ClassTally) -> tuple[Floats, Floats]:
    """Return a site's images at each step, those of the class and the others.

    A curve of two parameters is not found from one or two cells: a side that has no more lies
    within them as the site's images of both sides do, so that nothing is told apart which was not.
    """
    both_E = spread((*told.positives, *told.negatives)) + 1e-9
    return spread(told.positives, both_E), spread(told.negatives, both_E)


def spread(cells: Sequence[Cell], from_E: Floats | None = None) -> Floats:
    """Return images at each step, those of a cell as the best bell curve has them, shape (E,).

    The curve is found by expectation and maximisation, from an even one, or *from_E*, on.
    """
    images_E = shared_out(cells, np.ones(STEPS) if from_E is None else from_E)
    place_E = np.arange(STEPS)
    known = len(cells) >= CELLS if from_E is not None else bool(cells)
    for _ in range(FITS if known else 0):
        mean = images_E @ place_E / images_E.sum()
        variance = images_E @ (place_E - mean) ** 2 / images_E.sum()
        # A step is the finest that is known, and a cell far out must still lie somewhere.
        bell_E = np.exp(-((place_E - mean) ** 2) / (2 * max(variance, 1.0))) + 1e-30
        images_E = shared_out(cells, bell_E)
    return images_E


def shared_out(cells: Iterable[Cell], density_E: Floats) -> Floats:
    """Return images at each step, those of a cell as the density has them within it, shape (E,)."""
    images_E = np.zeros(STEPS)
    for first, after, images in cells:
        part = density_E[first:after]
        images_E[first:after] += images * part / part.sum()
    return images_E


def bounds(positives: Sequence[Cell], negatives: Sequence[Cell]) -> tuple[float, float]:
    """Return the least and the largest AUC that the cells allow.

    Guarantee: the AUC over the very scores, ties counting half, lies between them.
    """
    up, down = np.asarray(positives, np.int64), np.asarray(negatives, np.int64)
    # Not in whole numbers: the pairs of a site that tells of 10^9 images in each cell wrap around.
    pairs = up[:, 2, None].astype(np.float64) * down[None, :, 2]
    won = pairs[up[:, 0, None] >= down[None, :, 1]].sum()
    lost = pairs[up[:, 1, None] <= down[None, :, 0]].sum()
    return float(won / pairs.sum()), float(1 - lost / pairs.sum())


def area(positive_E: Floats, negative_E: Floats) -> float:
    """Return the AUC of images at the grid's steps, those at one step counting half."""
    below_E = np.cumsum(negative_E) - negative_E
    won = positive_E @ (below_E + negative_E / 2)
    return float(won / (positive_E.sum() * negative_E.sum()))


def _at_least(images_E: Floats) -> Floats:
    """Return the share that scores at least each edge, from the highest, 0 to 1, shape (E + 1,)."""
    return np.asarray(np.append(0, np.cumsum(images_E[::-1])) / images_E.sum())


def _reliability(positive_E: Floats, negative_E: Floats) -> tuple[Floats, Floats, float]:
    """Return mean score and frequency of the class in bars of equal width, and their distance."""
    all_E, middle_E = positive_E + negative_E, (EDGES[:-1] + EDGES[1:]) / 2
    bar_E = np.minimum((middle_E * BINS).astype(np.int64), BINS - 1)
    images, hits, scores = (
        np.bincount(bar_E, weights, BINS) for weights in (all_E, positive_E, all_E * middle_E)
    )
    with np.errstate(invalid="ignore"):
        confidence, frequency = scores / images, hits / images
    gap = np.abs(scores - hits).sum() / images.sum()
    return confidence, frequency, float(gap)
