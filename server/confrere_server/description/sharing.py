"""Marks of sites become numbers of shared images: each pair of sites, small numbers untold.

Marks are nowhere but in the memory of one round. What is written down is ``Sharing``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from confrere_common.describe import Describe
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.exchange import Update
from confrere_common.marks import MARK_BYTES, MOST_HALVINGS, Marks, read_marks
from confrere_common.section import section
from confrere_common.settings import check_settings
from confrere_common.storage import atomic_write

FILE = "shared.json"


@section
class Shared:
    """How many images two sites share."""

    one: str
    """A site."""

    two: str
    """Another."""

    least: Annotated[int, Field(ge=2)]
    """A smaller number of them is not told."""

    images: Annotated[int, Field(ge=0)] = 0
    """Images that were found at both; 0: fewer than ``least``, or none."""

    one_in: Annotated[int, Field(ge=1, le=2**MOST_HALVINGS)] = 1
    """Of how many images one was looked at: above 1 where a site has very many."""

    @property
    def sentence(self) -> str:
        """Return it in words, as a cell of a table."""
        said = f"at least {self.images:,}" if self.images else f"fewer than {self.least}"
        return f"{said}, of one image in {self.one_in}" if self.one_in > 1 else said


@section
class Sharing:
    """What a report may hold of all marks: no mark is in it."""

    sites: tuple[str, ...] = ()
    """Sites that took part, as their policies let them."""

    pairs: tuple[Shared, ...] = ()
    """Every two of them."""


NOTHING = Sharing()

KeepSharing: TypeAlias = Callable[[Sharing], None]
"""``keep(sharing)`` what was counted."""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One site's marks, while a round lasts."""

    marks: NDArray[np.bytes_] = field(repr=False)
    halvings: int
    smallest: int
    """A smaller count is not told of the site."""


def marked(answer: Update, asked: Describe, smallest: int) -> Marked | None:
    """Return a site's marks, None where it takes no part; ExchangeError where they are unsound."""
    if not answer.marks:
        return None
    if not asked.duplicates:
        raise ExchangeError("it tells marks of images, which the run does not ask for.")
    told = read_marks(answer.marks, answer.images)
    return Marked(marks=_array(told), halvings=told.halvings, smallest=smallest)


def _array(told: Marks) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(told.marks), f"S{MARK_BYTES}")


def counted(sites: Mapping[str, Marked]) -> Sharing:
    """Return how many images every two sites share, where that is not a small number."""
    pairs = (_pair(one, two, sites) for one, two in combinations(sorted(sites), 2))
    return Sharing(sites=tuple(sorted(sites)), pairs=tuple(pairs))


def _pair(one: str, two: str, sites: Mapping[str, Marked]) -> Shared:
    first, second = sites[one], sites[two]
    least = max(first.smallest, second.smallest)
    # What both told lies in the smaller sample of the two, since that is a part of the larger.
    found = len(np.intersect1d(first.marks, second.marks, assume_unique=True))
    return Shared(
        one=one,
        two=two,
        least=least,
        images=found if found >= least else 0,
        one_in=2 ** max(first.halvings, second.halvings),
    )


def among(sharing: Sharing, sites: list[str]) -> Sharing:
    """Return what was counted of *sites* alone."""
    pairs = tuple(p for p in sharing.pairs if {p.one, p.two} <= set(sites))
    return Sharing(sites=tuple(s for s in sharing.sites if s in sites), pairs=pairs)


def keep_shared_in(folder: Path) -> KeepSharing:
    """Return what keeps the numbers in a run's folder; a round held again takes their place."""
    return lambda sharing: atomic_write(folder / FILE, json.dumps(asdict(sharing)).encode())


def shared_in(folder: Path) -> Sharing:
    """Return the numbers kept in a run's folder; none where nothing was counted."""
    path = folder / FILE
    return sharing_of(json.loads(path.read_bytes())) if path.exists() else NOTHING


def sharing_of(plain: Any) -> Sharing:
    """Return the numbers as they were written; ExchangeError where they were changed."""
    try:
        return check_settings(plain, Sharing, FILE)
    except (ConfigError, TypeError, ValueError):
        raise ExchangeError("numbers of shared images are damaged: fetch them again.") from None
