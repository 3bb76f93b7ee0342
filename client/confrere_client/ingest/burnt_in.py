"""Text that is burnt into a picture, found by its shape: sharp, small, upright strokes in rows.

What it is: a heuristic that reads no letter. Characters are compact regions with edges far sharper
than tissue has (speckle and trabeculae are soft), in one flat grey, of alike height, side by side
on one line. Lines of four or more such regions are reported, and where there are some, so are
shorter ones of letters as high.

Its limits, said plainly: handwriting, text at an angle, text that differs from its surroundings by
few grey levels, text under about 6 pixels high, single letters (the side mark L or R) and text over
bright bone are missed; rulers, scale bars, grids, rows of screws, hair on skin and CT windowed to
black and white can be taken for text. A score of 0 is therefore no proof that a picture is free of
names. Measured on generated pictures, and on the few real ones at hand, in
tests/client/ingest/test_burnt_in.py.

Shapes: C channels, Y X pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.shaping.foreground import otsu

TEXT_MODALITIES = ("us", "sc", "cr", "dx", "xc", "ot", "rf", "xa", "es")
"""Modalities whose pictures may carry burnt-in text."""

LETTER_PX = (6, 64)
"""Height of what may be a letter."""

TOUCHING = 4
"""Letters that touch are one region, at most so many times as wide as high."""

SHARP = 0.3
"""A drawn stroke goes from dark to bright within a pixel or two, tissue does not."""

LEAST_LETTERS = 4
SHORTEST_WORD = 2
ALIKE = 0.25
"""Letters of short words are as high as those of a line, but for such a part: a J and an o."""

MOST_REGIONS = 20_000
FLAT = 0.25
"""A letter is drawn in one grey: its spread is a small part of its contrast."""


@dataclass(frozen=True, kw_only=True)
class BurntIn:
    """Where text seems to stand in a picture."""

    boxes: tuple[tuple[int, int, int, int], ...]
    """Top, left, bottom, right of each line; bottom and right excluded."""

    score: float
    """0 to 1: how sure it is that there is any text; letters found over `SURE`, at most 1."""


SURE = 12
"""So many letters leave no doubt."""

LEAST_SCORE = 0.3
"""Below it, a row of alike specks is as likely."""


def find_text(image_CYX: NDArray[Any]) -> BurntIn:
    """Return lines that look like text, bright on dark or dark on bright."""
    grey = _grey(image_CYX)
    letters = [*_letters(grey), *_letters(255 - grey)]
    rows = _rows(letters)
    lines = [row for row in rows if _count(row) >= LEAST_LETTERS]
    score = min(1.0, sum(_count(line) for line in lines) / SURE)
    if score >= LEAST_SCORE:  # where there is text, what looks like a short word is one
        lines += [row for row in rows if row not in lines and _is_short_word(row, lines)]
    boxes = tuple(_around(line) for line in lines)
    return BurntIn(boxes=boxes, score=round(score, 3))


def masked(image_CYX: NDArray[Any], boxes: Sequence[tuple[int, int, int, int]]) -> NDArray[Any]:
    """Return a copy with the boxes, a little wider, filled with the picture's darkest value."""
    made = image_CYX.copy()
    for top, left, bottom, right in boxes:
        room = max(2, (bottom - top) // 3)
        made[:, max(0, top - room) : bottom + room, max(0, left - room) : right + room] = made.min()
    return made


def _grey(image_CYX: NDArray[Any]) -> NDArray[np.float32]:
    """Return the brightest channel over 0 to 255: coloured text is text."""
    values = np.nan_to_num(np.asarray(image_CYX, np.float32)).max(axis=0)
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = (values - low) * np.float32(255 / (high - low or 1))
    return scaled


Box = tuple[int, int, int, int]


def _letters(grey_YX: NDArray[np.float32]) -> list[Box]:
    """Return the boxes of bright regions with the size, the flatness and the edges of letters."""
    from scipy.ndimage import find_objects, label, minimum_filter

    around = minimum_filter(grey_YX, size=9)
    contrast = grey_YX - around  # strokes stand out from what is near; a bright body does not
    strokes = contrast > max(64.0, otsu(contrast))
    steep_YX = _steepness(grey_YX)
    regions, count = label(strokes, np.ones((3, 3)))
    if not 0 < count <= MOST_REGIONS:
        return []
    found = []
    for number, place in enumerate(find_objects(regions), 1):
        top, left = place[0].start, place[1].start
        bottom, right = place[0].stop, place[1].stop
        if _is_sized(bottom - top, right - left):
            inside = regions[place] == number
            if _is_drawn(grey_YX[place], steep_YX[place], inside):
                found.append((top, left, bottom, right))
    return found


def _steepness(grey_YX: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each pixel differs most from one of its four neighbours."""
    padded = np.pad(grey_YX, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    made: NDArray[np.float32] = np.max([np.abs(inner - side) for side in sides], axis=0)
    return made


def _is_sized(height: int, width: int) -> bool:
    low, high = LETTER_PX
    return low <= height <= high and 1 <= width <= TOUCHING * height


def _is_drawn(
    grey: NDArray[np.float32], steep: NDArray[np.float32], inside: NDArray[np.bool_]
) -> bool:
    """Say whether a region is of thin, sharp strokes in one grey, neither a speck nor a block."""
    values, contrast = grey[inside], max(1.0, float(grey[inside].max() - grey.min()))
    flat = values.std() <= FLAT * contrast
    sharp = float(np.median(steep[inside])) >= SHARP * contrast
    thin = inside.shape[1] <= inside.shape[0] // 3  # an I or a 1 fills its box
    return bool(flat and sharp and (thin or 0.15 <= inside.mean() <= 0.85))


def _is_short_word(row: list[Box], lines: Sequence[list[Box]]) -> bool:
    """Say whether a row of few letters is as high as those of a line that was found."""
    tall = _tall(row)
    alike = any(abs(tall - _tall(line)) <= ALIKE * tall for line in lines)
    return alike and _count(row) >= SHORTEST_WORD


def _tall(row: Sequence[Box]) -> float:
    """Return the height of most of a row's letters."""
    return float(np.median([bottom - top for top, _, bottom, _ in row]))


def _rows(letters: list[Box]) -> list[list[Box]]:
    """Return rows of letters: alike in height, on one line, no further apart than a space."""
    lines: list[list[Box]] = []
    for letter in sorted(letters, key=lambda box: box[1]):
        line = next((line for line in reversed(lines) if _follows(line[-1], letter)), None)
        if line is None:
            lines.append([letter])
        else:
            line.append(letter)
    return lines


def _count(line: Sequence[Box]) -> int:
    """Return how many letters a line has; a wide region is several that touch."""
    return sum(max(1, round((right - left) / (bottom - top))) for top, left, bottom, right in line)


def _follows(last: Box, letter: Box) -> bool:
    tall, height = last[2] - last[0], letter[2] - letter[0]
    shared = min(last[2], letter[2]) - max(last[0], letter[0])
    gap = letter[1] - last[3]
    return (
        max(tall, height) <= 1.8 * min(tall, height)
        and shared >= 0.7 * min(tall, height)
        and -0.3 * tall <= gap <= 1.5 * max(tall, height)
    )


def _around(line: Sequence[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*line, strict=True)
    return (min(tops), min(lefts), max(bottoms), max(rights))
