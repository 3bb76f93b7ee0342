"""Pool means: Dice of images with a structure and of those without, precision of searches.

A site tells how many of its held-out images have which value, in cells that are never of few
patients (``common.tally``). Where within its cell a value lies is not known: all may lie at one end
of it. So a mean is told with the least and the largest that the cells allow, and of a site of few
patients that may be 0 to 1.

The best guess between them takes no shape for granted, as Dice often has two heaps, what was missed
and what was found: it is the likeliest distribution of all sites' values, even within each cell but
for what other sites' finer cells tell (Turnbull 1976, https://doi.org/10.1111/j.2517-6161.1976.tb01597.x).
On three simulated sites with cells of 10 and a fifth of the lesions missed (Dice 0, the others'
Beta(12, 3)) it is off by less than 0.15, 0.16, 0.13 and 0.03 on average at 12, 15, 20 and 25
patients a site (``tests/server/test_grading.py``). A bell curve, as ``pooling`` fits, would suit
values in one heap better, but whether they are cells do not tell.

Of an image without the structure the Dice is 1 where nothing was marked, and 0 where anything was:
their mean is the share of images that were rightly left alone. Of a search the value is P@5: of the
five images of its own site that lie nearest to a query, the share that is of its class.

Shapes: E steps of the grid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_common.config import Run
from confrere_common.judged import SCORED
from confrere_common.model import task_of
from confrere_common.tally import EDGES, STEPS, Cell, ClassTally
from confrere_server.pooling import FITS, read_tallies, shared_out, site_facts

MIDDLES: NDArray[np.float64] = (EDGES[:-1] + EDGES[1:]) / 2

LISTS: Mapping[str, str] = {"dice": "structures", "precision": "queries"}
"""Measure -> what those are called of which it is told, one by one."""

ENDS: NDArray[np.float64] = np.where(np.isin(np.arange(STEPS), (0, STEPS - 1)), 1.0, 1e-12)
"""How values lie that are 0 or 1, before anything is known."""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A mean over images, known from cells."""

    images: int
    mean: float
    low: float
    high: float
    """The mean over the very values lies between these two."""

    @property
    def error(self) -> float:
        """Return within what of ``mean`` the mean over the very values lies."""
        return max(self.mean - self.low, self.high - self.mean)


def graded(cells: Sequence[Cell], *, whole: bool = False) -> Graded | None:
    """Return the mean of values of which only the cells are known; None without any.

    Guarantee: the mean over the very values lies between ``low`` and ``high``. They are closer to
    each other where values are *whole*, 0 or 1: only a cell that holds both steps leaves a doubt.
    """
    if not cells:
        return None
    firsts, afters, images = np.asarray(cells, np.int64).T
    total = int(images.sum())
    lows, highs = EDGES[firsts], EDGES[afters]
    if whole:
        zeros, ones = firsts == 0, afters == STEPS
        lows, highs = (ones & ~zeros).astype(float), 1 - (zeros & ~ones).astype(float)
    low, high = (float(ends @ images / total) for ends in (lows, highs))
    guess = float(_likeliest(cells, ENDS if whole else np.diff(EDGES)) @ MIDDLES / total)
    return Graded(images=total, mean=min(max(guess, low), high), low=low, high=high)


def _likeliest(cells: Sequence[Cell], density_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return images at each step, those of a cell as all cells together make likeliest."""
    images_E = shared_out(cells, density_E)
    for _ in range(FITS):
        # What has come near to nothing must still share out a cell that holds nothing else.
        images_E = shared_out(cells, images_E + 1e-9 * density_E)
    return images_E


def together(said: Mapping[str, Mapping[str, Any] | str], run: Run) -> dict[str, Any]:
    """Return what sites said of a model, and what that comes to, as plain values for a report.

    ``dice`` is the mean over structures of the Dice where there is one, ``precision`` that over
    classes of their queries' P@5.
    """
    task = task_of(run)
    names = (task.classes or ()) if task is not None else ()
    measure = SCORED[task.task.name] if task is not None else "dice"
    told = {site: plain for site, plain in said.items() if not isinstance(plain, str)}
    read = {site: read_tallies(site, plain, len(names)) for site, plain in told.items()}
    each = [_class(kind, read, measure) for kind in range(len(names))]
    return {
        **_mean(each, measure),
        LISTS[measure]: [
            {"name": name, **one}
            for name, one in zip(names, each, strict=True)
            if measure in one or "alone" in one
        ],
        "sites": {
            site: {"refused": plain}
            if isinstance(plain, str)
            else _of_site(plain, read[site], measure)
            for site, plain in sorted(said.items())
        },
    }


def _class(kind: int, read: Mapping[str, Mapping[int, ClassTally]], measure: str) -> dict[str, Any]:
    """Return what is told of a structure, or of a class that is searched for."""
    of = {site: tallies[kind] for site, tallies in read.items() if kind in tallies}
    there = graded([cell for one in of.values() for cell in one.positives])
    not_there = graded([cell for one in of.values() for cell in one.negatives], whole=True)
    told: dict[str, Any] = {"sites": sorted(of)}
    if there is not None:
        told |= {"images": there.images, measure: there.mean, **_doubt(there, "")}
    if not_there is not None:
        told |= {
            "without": not_there.images,
            "alone": not_there.mean,
            **_doubt(not_there, "alone_"),
        }
    return told


def _doubt(found: Graded, prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": getattr(found, name) for name in ("error", "low", "high")}


def _of_site(
    plain: Mapping[str, Any], tallies: Mapping[int, ClassTally], measure: str
) -> dict[str, Any]:
    each = [_class(kind, {"": tallies}, measure) for kind in tallies]
    images = [one.get("images", 0) + one.get("without", 0) for one in each]
    # Structures are told of over the same images, and classes over images of their own.
    count = sum(images) if measure == "precision" else max(images, default=0)
    return {**site_facts(plain), "images": count, **_mean(each, measure)}


def _mean(each: Iterable[Mapping[str, Any]], measure: str) -> dict[str, float]:
    known = [one for one in each if measure in one]
    if not known:
        return {}
    figures = (measure, "error", "low", "high")
    return {name: float(np.mean([one[name] for one in known])) for name in figures}
