"""Pool what sites tell of a segmentation: Dice of images with a structure, and of those without.

A site tells how many of its held-out images have which Dice, in cells that are never of few
patients (``common.tally``). Where within its cell a value lies is not known, so a mean is told with
what it may be off by: half of the pooled cells' width, at most. Its best guess spreads a cell's
images as ``pooling.spread`` does.

Of an image without the structure the Dice is 1 where nothing was marked, and 0 where anything was:
their mean is the share of images that were rightly left alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from confrere_common.config import Run
from confrere_common.model import task_of
from confrere_common.tally import EDGES, Cell, ClassTally
from confrere_server.pooling import read_tallies, spread


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A mean over images, known from cells."""

    images: int
    mean: float
    error: float
    """The mean over the very values lies within this of ``mean``."""


def graded(cells: Sequence[Cell]) -> Graded | None:
    """Return the mean of values of which only the cells are known; None without any.

    Guarantee: the mean over the very values lies within ``error`` of ``mean``.
    """
    if not cells:
        return None
    firsts, afters, images = np.asarray(cells, np.int64).T
    total = int(images.sum())
    low, high = (float(EDGES[ends] @ images / total) for ends in (firsts, afters))
    images_E = spread(cells)
    guess = float(images_E @ ((EDGES[:-1] + EDGES[1:]) / 2) / images_E.sum())
    mean = min(max(guess, low), high)
    return Graded(images=total, mean=mean, error=max(mean - low, high - mean))


def together(said: Mapping[str, Mapping[str, Any] | str], run: Run) -> dict[str, Any]:
    """Return what sites said of a model, and what that comes to, as plain values for a report.

    ``dice`` is the mean over structures of the Dice where there is one.
    """
    task = task_of(run)
    names = (task.classes or ()) if task is not None else ()
    told = {site: plain for site, plain in said.items() if not isinstance(plain, str)}
    read = {site: read_tallies(site, plain, len(names)) for site, plain in told.items()}
    each = [_structure(names[kind], kind, read) for kind in range(len(names))]
    return {
        **_mean(each),
        "structures": [one for one in each if "dice" in one or "alone" in one],
        "sites": {
            site: {"refused": plain} if isinstance(plain, str) else _of_site(plain, read[site])
            for site, plain in sorted(said.items())
        },
    }


def _structure(
    name: str, kind: int, read: Mapping[str, Mapping[int, ClassTally]]
) -> dict[str, Any]:
    of = {site: tallies[kind] for site, tallies in read.items() if kind in tallies}
    there = graded([cell for one in of.values() for cell in one.positives])
    not_there = graded([cell for one in of.values() for cell in one.negatives])
    told: dict[str, Any] = {"name": name, "sites": sorted(of)}
    if there is not None:
        told |= {"images": there.images, "dice": there.mean, "error": there.error}
    if not_there is not None:
        told |= {
            "without": not_there.images,
            "alone": not_there.mean,
            "alone_error": not_there.error,
        }
    return told


def _of_site(plain: Mapping[str, Any], tallies: Mapping[int, ClassTally]) -> dict[str, Any]:
    each = [_structure("", kind, {"": tallies}) for kind in tallies]
    images = [one.get("images", 0) + one.get("without", 0) for one in each]
    return {"smallest": plain["smallest"], "images": max(images, default=0), **_mean(each)}


def _mean(each: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    known = [one for one in each if "dice" in one]
    if not known:
        return {}
    return {name: float(np.mean([one[name] for one in known])) for name in ("dice", "error")}
