"""Frames become stacks: sorted along their normal, copies left out, gaps and tilts found.

Shapes: Z slices. Lengths in millimetres.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.dicom.frames import Frame, through
from confrere_client.ingest.reader import Skipped

UNEVEN = 0.1
"""Steps that differ by less, as a part of the usual step, are even: headers are rounded."""

MISSING = 0.1
"""A stack that lacks more of its slices is refused."""

TILT = 0.01
"""A drift of more millimetres a millimetre (0.6 degrees) is a gantry tilt."""

ORIENTATIONS = 3
"""A series of more orientations is a radial one or a set of scouts, and refused."""

GAP, DUPLICATE, TILTED = "gap between slices", "duplicate slice", "gantry tilt"
MIXED, UNPLACED = "mixed orientations", "no slice positions"
UNLIKE = "inconsistent slices"
"""Some of a series have another size or spacing than the others, and make no volume with them."""

UNEVENLY = "uneven slices"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Frames of one volume in the order of their places."""

    frames: tuple[Frame, ...]
    places: NDArray[np.float64]
    """Of each frame along the normal, ascending; Z millimetres."""

    step: float
    """Between the slices of the even grid that is made of them."""

    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> NDArray[np.float64]:
        """Return the even grid of places, from the first to the last."""
        if len(self.frames) == 1:
            return self.places
        count = round((self.places[-1] - self.places[0]) / self.step) + 1
        steps: NDArray[np.float64] = self.step * np.arange(count, dtype=np.float64)
        return np.asarray(self.places[0] + steps)

    @property
    def even(self) -> bool:
        """Say whether the frames lie on the grid already."""
        return bool(
            len(self.grid) == len(self.places)
            and np.abs(self.grid - self.places).max() <= UNEVEN * self.step
        )


def stacks_of(frames: Sequence[Frame]) -> list[Stack]:
    """Return the volumes that *frames* of one series make; Skipped where they make none."""
    kept = [frame for frame in frames if not frame.localiser]
    if not kept:
        raise Skipped("localiser")
    unique, warned = _unique(kept)
    groups = _by_plane(unique)
    if len(groups) == 1:
        return _stacks(groups[0], warned)
    trouble = _trouble(groups)
    groups = [group for group in groups if len(group) > 1]
    if not 0 < len(groups) <= ORIENTATIONS:
        raise Skipped(trouble, "it makes no volume")
    left_out = len(unique) - sum(map(len, groups))
    try:
        return [stack for group in groups for stack in _stacks(group, (*warned, trouble))]
    except Skipped as fault:
        if fault.kind != GAP or not left_out:
            raise
        # the gap is where those were that do not fit: that is what somebody has to know
        told = f"{left_out} of {len(unique)} fit no other, and without them too much is missing"
        raise Skipped(trouble, told) from None


def _trouble(groups: Sequence[Sequence[Frame]]) -> str:
    """Return why frames of one series are apart."""
    return MIXED if len({_lies(group[0]) for group in groups}) > 1 else UNLIKE


def _unique(frames: Sequence[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the frames without copies of one instance."""
    seen = {frame.key or str(at): frame for at, frame in reversed(list(enumerate(frames)))}
    chosen = set(map(id, seen.values()))
    kept = [frame for frame in frames if id(frame) in chosen]
    return kept, (DUPLICATE,) if len(kept) < len(frames) else ()


def _by_plane(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames apart by orientation, size and spacing; the largest group first."""
    groups: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        apart = None if frame.spacing is None else tuple(np.round(frame.spacing, 3))
        groups[(_lies(frame), frame.shape, apart)].append(frame)
    return sorted(groups.values(), key=len, reverse=True)


def _lies(frame: Frame) -> tuple[float, ...] | None:
    """Return a frame's two directions, rounded; None when it has none."""
    return None if frame.axes is None else tuple((np.round(frame.axes, 2) + 0.0).tolist())


def _stacks(frames: list[Frame], warned: tuple[str, ...]) -> list[Stack]:
    if len(frames) == 1:
        return [_stack(frames, np.zeros(1), warned)]
    if any(frame.position is None or frame.axes is None for frame in frames):
        ordered = sorted(frames, key=lambda frame: (frame.number, frame.part, frame.index))
        step = frames[0].thickness or 1.0
        places = step * np.arange(len(ordered), dtype=np.float64)
        return [_stack(ordered, places, (*warned, UNPLACED))]
    places = _along(frames)
    volumes, more = _apart(frames, places)
    return [
        _stack([frames[at] for at in chosen], places[chosen], warned + more) for chosen in volumes
    ]


def normal(frame: Frame) -> NDArray[np.float64]:
    """Return the direction that goes through the slice."""
    return np.array(through(frame.axes or ()), np.float64)


def _along(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return where each frame lies along the normal."""
    positions = np.array([frame.position for frame in frames], np.float64)
    along: NDArray[np.float64] = positions @ normal(frames[0])
    return along


def _apart(
    frames: Sequence[Frame], places: NDArray[np.float64]
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Return the indices of each volume's frames by place: time points apart, doubles left out."""
    slots = _slots(places)
    ranks = sorted(
        range(len(frames)),
        key=lambda at: (slots[at], frames[at].time, frames[at].number, at),
    )
    held: dict[int, list[int]] = defaultdict(list)
    for at in ranks:
        held[slots[at]].append(at)
    counts = {len(there) for there in held.values()}
    if counts == {1}:
        return [[there[0] for there in held.values()]], ()
    times = len({frame.time for frame in frames})
    if len(counts) == 1 and (times > 1 or _numbered(frames)):
        return [list(volume) for volume in zip(*held.values(), strict=True)], ()
    if volumes := _by_time(frames, slots):
        return volumes, ()
    return [[there[0] for there in held.values()]], (DUPLICATE,)


def _numbered(frames: Sequence[Frame]) -> bool:
    """Say whether every frame has a number or index of its own, as repeats of a place have."""
    return len({(frame.number, frame.index) for frame in frames}) == len(frames)


def _by_time(frames: Sequence[Frame], slots: Sequence[int]) -> list[list[int]]:
    """Return a volume for each time, if each then has every place at most once; else nothing."""
    by_time: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for at in np.argsort(slots, kind="stable"):
        by_time[frames[at].time].append(int(at))
    clean = all(len({slots[at] for at in v}) == len(v) > 1 for v in by_time.values())
    return [by_time[time] for time in sorted(by_time)] if clean else []


def _slots(places: NDArray[np.float64]) -> list[int]:
    """Return the number of each frame's place; what lies closer than a hundredth mm is one."""
    order = np.argsort(places, kind="stable")
    new = np.diff(places[order], prepend=places[order[0]]) > 0.01
    slots = np.empty(len(places), np.int64)
    slots[order] = np.cumsum(new)
    return [int(slot) for slot in slots]


def _stack(frames: Sequence[Frame], places: NDArray[np.float64], warned: tuple[str, ...]) -> Stack:
    """Return the stack with its step; Skipped when too much of it is missing."""
    if len(frames) == 1:
        step = frames[0].thickness or 1.0
        return Stack(frames=tuple(frames), places=places, step=step, warnings=warned)
    steps = np.diff(places)
    step = float(np.median(steps))
    missing = int(np.maximum(np.rint(steps / step) - 1, 0).sum())
    if missing > MISSING * len(frames):
        raise Skipped(GAP, f"{missing} of {len(frames) + missing} slices are missing")
    if missing:
        warned = (*warned, GAP)
    elif np.abs(steps - step).max() > UNEVEN * step:
        warned = (*warned, UNEVENLY)
    if drift(frames) is not None:
        warned = (*warned, TILTED)
    return Stack(
        frames=tuple(frames), places=places, step=step, warnings=tuple(dict.fromkeys(warned))
    )


def drift(frames: Sequence[Frame]) -> NDArray[np.float64] | None:
    """Return by how many pixels (down, along) each slice is shifted from the middle one.

    None when the slices lie square above each other.
    """
    first = frames[0]
    if first.position is None or first.axes is None or first.spacing is None or len(frames) < 2:
        return None
    positions = np.array([frame.position for frame in frames], np.float64)
    apart = positions - positions[len(frames) // 2]
    axes = np.asarray(first.axes).reshape(2, 3)[::-1]  # down a column, along a row
    inside = apart @ axes.T
    length = abs(float((apart[-1] - apart[0]) @ normal(first)))
    if length == 0 or np.abs(inside[-1] - inside[0]).max() <= TILT * length:
        return None
    shifts: NDArray[np.float64] = inside / np.asarray(first.spacing)
    return shifts
