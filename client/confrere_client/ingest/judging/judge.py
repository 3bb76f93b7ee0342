"""Exams that deserve a look: duplicates, near duplicates, saturated images, outliers by brightness.

They stay in the data set, flagged; a run leaves out what it is told to (`leave_out`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR_BITS = 3
"""Perceptual hashes of 64 bits that differ in no more look alike."""

BLOCK_BITS = 16
"""Of four blocks, one at least is equal where no more than three bits differ."""

SATURATED = 0.5
FAR = 6.0
"""Robust standard deviations from the median of its modality."""

LEAST_SPREAD = 0.01
ENOUGH = 20
"""Exams of a modality, before one can stand out."""

DUPLICATE, NEAR, WHITE, OUTLIER = "duplicate", "near duplicate", "saturated", "brightness outlier"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a judgement needs of all exams, in the order of their keys."""

    digests: NDArray[np.uint64]
    """128 bits as two columns."""

    looks: NDArray[np.int64]
    means: NDArray[np.floating]
    whites: NDArray[np.floating]
    kinds: NDArray[np.integer]
    """Number of modality and axes together."""

    patients: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.digests)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What stands out."""

    flags: Mapping[int, tuple[str, ...]]
    """Row -> what it is; of duplicates, every one but the first."""

    alike: Mapping[int, int]
    """Row flagged as a duplicate, exact or near -> the first row that it is like."""

    duplicate_groups: int
    near_groups: int
    across_patients: int
    """Groups, exact or near, whose images are of more than one patient: one patient under two
    keys, or two patients mixed up; either way a test may be on known images."""


def judge(seen: Seen) -> Judgement:
    """Return what stands out among all exams."""
    numbers = np.unique(seen.digests, axis=0, return_inverse=True)[1].reshape(-1)
    exact = [*_equal(numbers, np.arange(len(seen)))]
    later = {int(row) for rows in exact for row in rows[1:]}
    copies = np.zeros(len(seen), np.bool_)
    copies[[*later]] = True
    first = np.flatnonzero(~copies)
    near = list(near_groups(seen.looks, first))
    flags: dict[int, list[str]] = defaultdict(list)
    for name, rows in (
        (DUPLICATE, later),
        (NEAR, {int(row) for group in near for row in group[1:]}),
        (WHITE, np.flatnonzero(seen.whites > SATURATED).tolist()),
        (OUTLIER, outliers(seen)),
    ):
        for row in rows:
            flags[row].append(name)
    torn = sum(len(np.unique(seen.patients[rows])) > 1 for rows in [*exact, *near])
    return Judgement(
        flags={row: tuple(names) for row, names in flags.items()},
        alike={int(row): int(rows[0]) for rows in [*near, *exact] for row in rows[1:]},
        duplicate_groups=len(exact),
        near_groups=len(near),
        across_patients=torn,
    )


def outliers(seen: Seen) -> list[int]:
    """Return the rows far brighter or darker than the others of their modality."""
    found: list[int] = []
    for kind in np.unique(seen.kinds):
        rows = np.flatnonzero(seen.kinds == kind)
        means = seen.means[rows]
        middle = np.median(means)
        spread = max(LEAST_SPREAD, 1.4826 * float(np.median(np.abs(means - middle))))
        if len(rows) >= ENOUGH:
            found += rows[np.abs(means - middle) > FAR * spread].tolist()
    return found


def near_groups(looks: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield groups of *rows* that look alike, through others too, each in order of rows."""
    every, inverse = np.unique(looks[rows].view(np.uint64), return_inverse=True)
    parent = np.arange(len(every))

    def top(one: int) -> int:
        while parent[one] != one:
            parent[one] = one = int(parent[parent[one]])
        return one

    for one, other in _near_pairs(every):
        parent[top(one)] = top(other)
    tops = np.fromiter((top(one) for one in range(len(every))), np.int64, len(every))
    for group in _equal(tops[inverse], rows):
        yield np.sort(group)


def _near_pairs(looks: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of different hashes that are near: each shares one block of bits at least."""
    for shift in range(0, 64, BLOCK_BITS):
        block = (looks >> np.uint64(shift)) & np.uint64((1 << BLOCK_BITS) - 1)
        order = np.argsort(block, kind="stable")
        sorted_block = block[order]
        for step in range(1, len(looks)):
            same = np.flatnonzero(sorted_block[step:] == sorted_block[:-step])
            if not len(same):
                break
            one, other = order[same], order[same + step]
            near = _bits(looks[one] ^ looks[other]) <= NEAR_BITS
            yield from zip(one[near].tolist(), other[near].tolist(), strict=True)


def _bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    octets = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    return np.asarray(octets.sum(axis=1, dtype=np.int64))


def _equal(values: NDArray[np.generic], rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the *rows* of equal value, for each value that is not alone."""
    if not len(rows):
        return
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(values[order][1:] != values[order][:-1]) + 1
    starts = np.concatenate(([0], ends))
    lengths = np.diff(starts, append=len(rows))
    for at in np.flatnonzero(lengths > 1):
        yield rows[order[starts[at] : starts[at] + lengths[at]]]
