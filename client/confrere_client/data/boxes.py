"""Boxes beside the images: brought to the images' size, cut at the frame, unsound ones counted.

``boxes.json`` lies in the images' own cache folder.

Shapes: N images, M boxes of an image at most, D axes.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.decode import fitted_sides
from confrere_client.data.spool import disk
from confrere_client.source import Record, UnreadableImage
from confrere_common.storage import atomic_write

Box = tuple[str, Sequence[float]]
"""What is in it, and its low and high corner along X Y [Z]."""

NARROWEST = 1e-3
"""Voxels of the original image that a box must have along each axis."""

UNNAMED = "object"
"""What is in a box of which only the corners are told."""

CORNERS = (4, 6)
"""Numbers of a box in a picture and in a volume."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """The boxes of some images."""

    records: Sequence[Record]
    home: Path
    """The images' cache folder."""

    shape: tuple[int, ...]
    """([Z] Y X) of an image as it is kept."""

    @cached_property
    def told(self) -> dict[str, Any]:
        """Return the boxes of each image (null where none were drawn), and what was left out."""
        file = self.home / "boxes.json"
        if not file.exists():
            with disk():
                atomic_write(file, json.dumps(self._read()).encode())
        found: dict[str, Any] = json.loads(file.read_bytes())
        return found

    @property
    def known(self) -> NDArray[np.bool_]:
        """Say of which images it is known what is in them, (N,)."""
        return np.array([boxes is not None for boxes in self.told["boxes"]], np.bool_)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return what there is in boxes, by alphabet."""
        return tuple(sorted({name for boxes in self.told["boxes"] for name, _ in boxes or ()}))

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """Return corners along X Y [Z] and the number of the name, (N, M, 2 D + 1), NaN beyond."""
        every = [boxes or [] for boxes in self.told["boxes"]]
        most = max(1, max(map(len, every), default=1))
        found = np.full((len(every), most, 2 * len(self.shape) + 1), np.nan, np.float32)
        for row, boxes in enumerate(every):
            for place, (name, corners) in enumerate(boxes):
                found[row, place] = [*corners, self.names.index(name)]
        return found

    def _read(self) -> dict[str, Any]:
        reasons: Counter[str] = Counter()
        found: list[list[Box] | None] = []
        for record in self.records:
            try:
                found.append(None if record.boxes is None else self._of(record, reasons))
            except UnreadableImage as fault:
                reasons[str(fault)] += 1
                found.append(None)
        return {"boxes": found, "skipped": dict(reasons)}

    def _of(self, record: Record, reasons: Counter[str]) -> list[Box]:
        drawn = record.boxes() if record.boxes is not None else ()
        frame = record.decode().shape[:0:-1]
        kept: list[Box] = []
        for name, corners in drawn:
            inside = cut(corners, frame)
            if isinstance(inside, str):
                reasons[inside] += 1
                continue
            if list(inside) != [float(corner) for corner in corners]:
                reasons["reaches beyond the frame"] += 1
            kept.append((name, fitted(inside, frame, self.shape[::-1])))
        return kept


def cut(corners: Sequence[float], frame: Sequence[int]) -> tuple[float, ...] | str:
    """Return a box cut at the frame (X Y [Z]), or why it is none."""
    axes = len(frame)
    if len(corners) != 2 * axes or not all(map(math.isfinite, corners)):
        return "is not two corners of finite numbers"
    low, high = corners[:axes], corners[axes:]
    if any(upper - lower < NARROWEST for lower, upper in zip(low, high, strict=True)):
        return "has no area"
    pairs = zip(low, high, frame, strict=True)
    inside = [(max(0.0, lower), min(float(side), upper)) for lower, upper, side in pairs]
    if any(upper - lower < NARROWEST for lower, upper in inside):
        return "lies outside the frame"
    return (*(lower for lower, _ in inside), *(upper for _, upper in inside))


def fitted(corners: Sequence[float], frame: Sequence[int], shape: Sequence[int]) -> list[float]:
    """Return a box where ``decode.fit`` puts its image; all along X Y [Z]."""
    sizes, starts = _place(frame, shape)
    axes = len(frame)
    return [
        starts[place % axes] + corner * sizes[place % axes] / frame[place % axes]
        for place, corner in enumerate(corners)
    ]


def unfitted(
    corners: Sequence[float], frame: Sequence[int], shape: Sequence[int]
) -> tuple[float, ...]:
    """Return a box of a fitted image in pixels of the image itself, cut at its frame.

    What ``fitted`` does, undone; all along X Y [Z].
    """
    sizes, starts = _place(frame, shape)
    axes = len(frame)
    whole = (
        (corner - starts[place % axes]) * frame[place % axes] / sizes[place % axes]
        for place, corner in enumerate(corners)
    )
    return tuple(
        min(max(corner, 0.0), float(frame[place % axes])) for place, corner in enumerate(whole)
    )


def _place(frame: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
    """Return the sides of an image where ``decode.fit`` puts it, and where it begins there."""
    sizes = fitted_sides(frame, max(shape))
    return sizes, [(due - side) // 2 for due, side in zip(shape, sizes, strict=True)]


def read_boxes(text: str) -> list[Box]:
    """Return the boxes in a cell: ``[["name", x0, y0, x1, y1], ...]`` (X Y Z in a volume), as JSON.

    The name may also stand last, as other tools write it, or be left out ('object'). Five plain
    numbers are refused: the class could be the first or the last. UnreadableImage for anything
    else.
    """
    try:
        return [_read(box) for box in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        raise UnreadableImage(
            "boxes are not JSON of [name, x0, y0, x1, y1], the name in quotes"
        ) from None


def written(boxes: Iterable[Box]) -> str:
    """Return the cell that ``read_boxes`` reads, the name first."""
    return json.dumps([[name, *corners] for name, corners in boxes])


def _read(box: Any) -> Box:
    if not isinstance(box, list) or not box:
        raise TypeError
    if isinstance(box[0], str) and not (isinstance(box[-1], str) and _is_name(box[-1])):
        return box[0], tuple(float(corner) for corner in box[1:])
    if isinstance(box[-1], str):
        return box[-1], tuple(float(corner) for corner in box[:-1])
    if len(box) not in CORNERS:
        raise ValueError
    return UNNAMED, tuple(float(corner) for corner in box)


def _is_name(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return True
    return False
