"""Boxes go the way of their picture: turned, cut and resized as its record says.

Corners run along X Y, in pixels; sizes are Y X.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from confrere_client.data.boxes import Box, cut

DEEP = "box in a volume"
ASTRAY = "box of a picture turned in a way that is not known"
CUT_AWAY = "lies in the air that was cut away"
BEYOND = "reaches beyond the frame"
EDGES = {0: (0, 0), 1: (1, 0), 2: (0, 1), 3: (1, 1)}
"""Corner of a picture -> its place along X Y, of 0 and 1."""


def refused(exam: Mapping[str, Any]) -> str:
    """Return why no box can be carried onto an exam, '' when they can.

    *exam* is what is kept of it: shape, tags, preprocessing.
    """
    if len(exam["shape"]) != 3:
        return DEEP
    known = exam["preprocessing"].get("turned") or not exam["tags"].get("orientation")
    return "" if known else ASTRAY


def carried(corners: Sequence[float], exam: Mapping[str, Any]) -> tuple[tuple[float, ...], str]:
    """Return a box of the file in pixels of the stored picture, and what is to be said of it.

    No corners where it is none: no area, outside the frame, cut away with the air.
    """
    record = exam["preprocessing"]
    turned = record.get("turned") or {"size": exam["source_shape"][1:], "corners": (0, 1, 2, 3)}
    frame = turned["size"][::-1]
    inside = cut(corners, frame)
    if isinstance(inside, str):
        return (), inside
    said = BEYOND if list(inside) != [float(corner) for corner in corners] else ""
    before = record["shape_before"][:0:-1]
    low_high = _turned(inside, frame, turned["corners"])
    ends = record.get("crop", [[0, side] for side in record["shape_before"][1:]])[::-1]
    room = [stop - start for start, stop in ends]
    left = cut([part * before[at % 2] - ends[at % 2][0] for at, part in enumerate(low_high)], room)
    if isinstance(left, str):
        return (), CUT_AWAY
    after = record["shape_after"][:0:-1]
    scaled = (corner * after[at % 2] / room[at % 2] for at, corner in enumerate(left))
    return tuple(round(corner, 4) for corner in scaled), said


def _turned(
    corners: Sequence[float], frame: Sequence[int], lie: Sequence[int]
) -> tuple[float, float, float, float]:
    """Return a box of a file of size *frame* in parts of the turned picture's sides.

    *lie*: as ``reader.Turned.corners``.
    """
    parts = [corner / frame[place % 2] for place, corner in enumerate(corners)]
    origin, along, down = (EDGES[lie[at]] for at in (0, 1, 2))
    made = []
    for end in (along, down):
        axis = 0 if end[0] != origin[0] else 1
        low, high = parts[axis], parts[axis + 2]
        made.append((low, high) if end[axis] > origin[axis] else (1 - high, 1 - low))
    return made[0][0], made[1][0], made[0][1], made[1][1]


def kept(boxes: Sequence[Box], exam: Mapping[str, Any]) -> tuple[list[Box], list[str]]:
    """Return the boxes of a picture, carried; and of each that is not as it was drawn, why."""
    found = [(name, *carried(corners, exam)) for name, corners in boxes]
    return (
        [(name, corners) for name, corners, _ in found if corners],
        [said for *_, said in found if said],
    )
