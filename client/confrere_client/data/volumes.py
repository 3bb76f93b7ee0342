"""Images at their own sizes, mapped where they lie: a part is read, and nothing else of them.

What a source has mapped already is read there; other images are decoded once into the cache, one
after the other. What of a part lies outside its image is black.

Shapes: N images, B rows, A axes ([Z] Y X), C channels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.cache import Progress, build, report, stored
from confrere_client.data.decode import Pixels, deepen, recolour
from confrere_client.source import Record, UnreadableImage
from confrere_common.errors import DataError

Sides = tuple[int, ...]
"""Along [Z] Y X."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volumes:
    """Images of any size, of which a run takes crops of one size; they are copied nowhere."""

    arrays: Sequence[Callable[[], Pixels]]
    """Return each as it lies on the disk, a read-only view (its channels, [Z] Y X)."""

    sizes: Sequence[Sides]
    """[Z] Y X of each."""

    crop: Sides
    channels: int
    dtype: str
    """uint16 where any image has 16 bits, else uint8."""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (N, C, [Z] Y X) of what a run sees: a crop of each."""
        return (len(self), self.channels, *self.crop)

    @property
    def ndim(self) -> int:
        """Return how many axes `shape` has."""
        return len(self.shape)

    def part(self, row: int, corner: Sequence[int], size: Sequence[int]) -> Pixels:
        """Return a copy of a box of one image, alike in channels and depth, (C, [Z] Y X)."""
        image = part(self.arrays[row](), corner, size)
        return recolour(deepen(image) if self.dtype == "uint16" else image, self.channels)

    def middle(self, row: int) -> Sides:
        """Return the corner of the crop from an image's middle."""
        return middle(self.sizes[row], self.crop)


def part(array: NDArray[Any], corner: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """Return a copy of the box of *size* at *corner* of the last axes; 0 outside the array.

    Of a mapped array only the box is read.
    """
    first, sides = array.shape[: -len(size)], array.shape[-len(size) :]
    lows = [min(max(0, start), side) for start, side in zip(corner, sides, strict=True)]
    ends = [start + due for start, due in zip(corner, size, strict=True)]
    highs = [max(low, min(end, side)) for low, end, side in zip(lows, ends, sides, strict=True)]
    inside = tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))
    spaces: Any = (..., *inside)
    box: NDArray[Any] = array[spaces]
    if box.shape == (*first, *size):
        return np.array(box)  # always a copy: a view of the map is read-only
    whole = np.zeros((*first, *size), array.dtype)
    if box.size:
        triples = zip(lows, corner, box.shape[len(first) :], strict=True)
        spaces = (..., *(slice(low - at, low - at + side) for low, at, side in triples))
        whole[spaces] = box
    return whole


def middle(sides: Sides, crop: Sides) -> Sides:
    """Return the corner of a crop from the middle; before the image where that is smaller.

    >>> middle((12, 5), (8, 8))
    (2, -1)
    """
    pairs = zip(sides, crop, strict=True)
    return tuple((side - due) // 2 if side >= due else -((due - side) // 2) for side, due in pairs)


def anywhere(sides: Sides, crop: Sides, draws_A: NDArray[np.float64]) -> Sides:
    """Return the corner of a crop that lies anywhere in the image; *draws_A* are from 0 to 1."""
    slack_A = np.subtract(sides, crop)
    places_A = np.minimum((draws_A * (slack_A + 1)).astype(np.int64), slack_A)
    return _where_there_is_room(places_A, sides, crop)


def around(voxel: Sequence[int], sides: Sides, crop: Sides) -> Sides:
    """Return the corner of the crop that has *voxel* in its middle, or as near as the edge lets."""
    wanted_A = np.subtract(voxel, np.floor_divide(crop, 2))
    places_A = np.clip(wanted_A, 0, np.maximum(np.subtract(sides, crop), 0))
    return _where_there_is_room(places_A, sides, crop)


def _where_there_is_room(places_A: NDArray[np.int64], sides: Sides, crop: Sides) -> Sides:
    still = middle(sides, crop)
    triples = zip(places_A, still, np.greater_equal(sides, crop), strict=True)
    return tuple(int(place) if room else at for place, at, room in triples)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Images of a source as they lie, and which could not be read."""

    arrays: Sequence[Callable[[], Pixels]]
    sizes: Sequence[Sides]
    channels: int
    dtype: str
    rows: Sequence[int]
    """Which of the source's records they are."""

    skipped: Sequence[tuple[int, str]]
    """Record and reason."""


def opened(
    records: Sequence[Record],
    channels: int | None,
    *,
    digest: str,
    home: Path,
    progress: Progress | None,
) -> Found:
    """Return the images of *records*, those that are not mapped by way of the cache in *home*.

    *channels* None: as many as the image with most has. DataError when none can be read.
    """
    if all(record.mapped for record in records):
        return _where_they_lie(records, channels)
    manifest = stored(home, digest, len(records))
    if manifest is None:
        build(records, partial(_plain, channels), digest, home, progress, own=True)
        manifest = stored(home, digest, len(records))
    if manifest is None:
        raise DataError("the image cache was written but reads back damaged: check its disk.")
    row_of_voxels = np.asarray(np.load(home / "pixels.npy", mmap_mode="r"))
    sizes = [tuple(sides) for sides in manifest["sides"]]
    shapes = [(manifest["channels"], *sides) for sides in sizes]
    starts = [0, *accumulate(map(math.prod, shapes))]
    return Found(
        arrays=[
            partial(_view, row_of_voxels[start:end], shape)
            for start, end, shape in zip(starts, starts[1:], shapes, strict=False)
        ],
        sizes=sizes,
        channels=manifest["channels"],
        dtype=manifest["dtype"],
        rows=manifest["rows"],
        skipped=[(row, reason) for row, reason in manifest["skipped"]],
    )


def _plain(channels: int | None, record: Record) -> Pixels:
    """Return one image as it shall lie in the cache."""
    image = record.decode()
    _must_be_image(image)
    return image if channels is None else recolour(image, channels)


def _must_be_image(image: Pixels) -> None:
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise UnreadableImage(f"has the shape {image.shape}, neither 2-D nor 3-D")


def _view(voxels: NDArray[Any], shape: tuple[int, ...]) -> Pixels:
    return voxels.reshape(shape)


def _where_they_lie(records: Sequence[Record], channels: int | None) -> Found:
    skipped: list[tuple[int, str]] = []
    seen: dict[int, tuple[Sides, str]] = {}
    for row, record in enumerate(records):
        try:
            image = record.decode()  # a view: nothing of it is read
            _must_be_image(image)
        except UnreadableImage as fault:
            skipped.append((row, str(fault)))
            continue
        seen[row] = image.shape, image.dtype.name
    skipped += _unlike(seen, channels)
    report(skipped, len(records))
    kept = sorted(seen.keys() - {row for row, _ in skipped})
    return Found(
        arrays=[records[row].decode for row in kept],
        sizes=[seen[row][0][1:] for row in kept],
        channels=channels or max(seen[row][0][0] for row in kept),
        dtype="uint16" if any(seen[row][1] == "uint16" for row in kept) else "uint8",
        rows=kept,
        skipped=sorted(skipped),
    )


def _unlike(seen: dict[int, tuple[Sides, str]], channels: int | None) -> Iterator[tuple[int, str]]:
    """Yield which images cannot be made like the others, and why; as the spool does."""
    dims = next((len(shape) - 1 for shape, _ in seen.values()), 0)
    most = channels or max(
        (shape[0] for shape, _ in seen.values() if len(shape) - 1 == dims), default=1
    )
    for row, (shape, _) in seen.items():
        if len(shape) - 1 != dims:
            yield row, f"is {len(shape) - 1}-D among {dims}-D images"
        elif channels != 1 and shape[0] not in (1, most):
            yield row, f"has a number of channels other than 1 or {most}, as the others have"
