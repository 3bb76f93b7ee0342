"""Masks beside the images: read once, brought to the images' size without a new value, mapped.

``masks.npy`` and ``masks.json`` lie in the images' own cache folder. A mask that cannot serve its
image leaves the image unmarked; it is counted with its reason. Where images keep their own sizes,
their masks do, one after the other.

Shapes: N images, [Z] Y X voxels.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.decode import LIMIT_PIXELS, fitted_sides
from confrere_client.data.spool import disk
from confrere_client.source import Record, UnreadableImage
from confrere_common.storage import atomic_write

log = getLogger(__name__)

Mask = NDArray[Any]
HIGHEST = 254
"""Largest class of a mask: one byte a voxel."""

PLACES = 64
"""Marked voxels of an image at most that crops may be centred on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """The masks of some images."""

    records: Sequence[Record]
    home: Path
    """The images' cache folder."""

    shape: tuple[int, ...]
    """([Z] Y X) of an image as it is kept, or as a run sees it of images of their own sizes."""

    own: Sequence[tuple[int, ...]] = ()
    """([Z] Y X) of each image where it keeps its own size."""

    @cached_property
    def values(self) -> NDArray[np.uint8]:
        """Return masks (N, [Z] Y X), memory-mapped; background where there is none.

        Where images keep their own sizes: the voxels of all masks in one row.
        """
        _ = self.told  # they are read where they were not yet
        return np.asarray(np.load(self.home / "masks.npy", mmap_mode="r"))

    def of(self, row: int) -> NDArray[np.uint8]:
        """Return one mask as it is kept, ([Z] Y X), memory-mapped."""
        return self._at(self.values, row)

    def places(self, row: int) -> Sequence[int]:
        """Return some marked voxels of an image of its own size, numbered in its row of voxels."""
        found: Sequence[int] = self.told["places"][row]
        return found

    @cached_property
    def told(self) -> dict[str, Any]:
        """Return which images have a mask, what it holds, and what was left out, why."""
        found = self._noted()
        if "kinds" not in found:  # nothing is there, or what an earlier version noted
            with disk():
                self._build()
            found = self._noted()
        return found

    @property
    def known(self) -> NDArray[np.bool_]:
        """Say of which images there is a mask, (N,)."""
        return np.asarray(self.told["known"], np.bool_)

    @cached_property
    def holds(self) -> NDArray[np.bool_]:
        """Say which masks hold which class as they are kept, (N, K): the first is class 1."""
        found = np.zeros((len(self.records), self.told["highest"]), np.bool_)
        for row, kinds in enumerate(self.told["kinds"]):
            found[row, np.array(kinds, np.int64) - 1] = True
        return found

    def _noted(self) -> dict[str, Any]:
        file = self.home / "masks.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
        return found

    def _build(self) -> None:
        reasons: Counter[str] = Counter()
        known, empty, highest = [False] * len(self.records), 0, 0
        part = self.home / ".masks.part"
        places: list[list[int]] = [[] for _ in self.records]
        kinds: list[list[int]] = [[] for _ in self.records]
        shape = (self._starts[-1],) if self.own else (len(self.records), *self.shape)
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)  # mapped images need no cache
        whole = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
        for row, record in enumerate(self.records):
            if record.mask is None:
                continue
            try:
                mask = read_mask(record)
            except UnreadableImage as fault:
                reasons[str(fault)] += 1
                continue
            kept = mask if self.own else fitted(mask, self.shape)
            self._at(whole, row)[...] = kept
            places[row], kinds[row] = _some(mask) if self.own else [], _kinds(kept)
            known[row], highest = True, max(highest, int(mask.max(initial=0)))
            empty += not mask.any()
        whole.flush()
        del whole
        part.replace(self.home / "masks.npy")
        told: dict[str, Any] = {"known": known, "highest": highest, "empty": empty, "kinds": kinds}
        told |= {"skipped": dict(reasons), **({"places": places} if self.own else {})}
        atomic_write(self.home / "masks.json", json.dumps(told).encode())
        for reason, count in reasons.items():
            log.warning("%d masks cannot serve their image: %s", count, reason)

    @cached_property
    def _starts(self) -> Sequence[int]:
        return [0, *accumulate(map(math.prod, self.own))]

    def _at(self, values: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        if self.own:
            return values[self._starts[row] : self._starts[row + 1]].reshape(self.own[row])
        mask: NDArray[np.uint8] = values[row]
        return mask


def _some(mask: Mask) -> list[int]:
    """Return marked voxels, evenly over all of them."""
    marked = np.flatnonzero(mask)
    spread = np.linspace(0, len(marked) - 1, min(PLACES, len(marked))).astype(np.int64)
    return [int(place) for place in marked[spread]]


def _kinds(mask: Mask) -> list[int]:
    """Return the classes that a mask holds, but for background."""
    seen = np.zeros(HIGHEST + 1, np.bool_)
    for part in mask:  # not all at once: as places they take eight times the room
        seen[part] = True
    return [int(kind) for kind in np.flatnonzero(seen[1:]) + 1]


def read_mask(record: Record) -> Mask:
    """Return a record's mask as uint8; UnreadableImage when it is not of its image's shape."""
    if record.mask is None:
        raise UnreadableImage("has no mask")
    mask, shape = record.mask(), record.decode().shape[1:]
    if mask.shape != shape:
        raise UnreadableImage(f"mask is {_by(mask.shape)} for an image of {_by(shape)}")
    return _classes(mask)


def decode_mask(path: Path) -> Mask:
    """Return the mask in a file: a grey or palette picture as its raw values, .npy or .npz."""
    try:
        if path.suffix.lower() in (".npy", ".npz"):
            return _array(path)
        with Image.open(path, formats=("PNG", "TIFF", "BMP")) as image:
            if image.size[0] * image.size[1] > LIMIT_PIXELS:
                raise UnreadableImage("mask is too large")
            values = np.asarray(image)  # a palette's colours mean nothing: its numbers do
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("mask is missing") from None
    except Exception as fault:  # Pillow and numpy raise anything on damaged bytes
        raise UnreadableImage(f"mask cannot be read ({type(fault).__name__})") from None
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any():
            raise UnreadableImage("mask is coloured: save the number of each pixel's class")
        values = values[..., 0]
    return values


def fitted(mask: Mask, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a mask where ``decode.fit`` puts its image, each voxel that of the nearest."""
    sizes = fitted_sides(mask.shape, max(shape))
    for axis, (new, old) in enumerate(zip(sizes, mask.shape, strict=True)):
        places = ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        mask = mask.take(places, axis)
    canvas = np.zeros(shape, np.uint8)
    inside = tuple(
        slice((due - side) // 2, (due - side) // 2 + side)
        for due, side in zip(shape, mask.shape, strict=True)
    )
    canvas[inside] = mask
    return canvas


def _array(path: Path) -> Mask:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        names = found.files
        return np.asarray(found["mask" if "mask" in names else names[0]])


def _classes(mask: Mask) -> NDArray[np.uint8]:
    """Return whole numbers from 0; a picture of 0 and 255 means 0 and 1."""
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8)
    if mask.dtype.kind not in "uif":
        raise UnreadableImage(f"mask holds {mask.dtype}, not classes")
    if not np.isfinite(mask).all():
        raise UnreadableImage("mask holds NaN or infinite values")
    if mask.size and set(np.unique(mask)) <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    whole = mask.astype(np.int64)
    if (whole != mask).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > HIGHEST:
        raise UnreadableImage(f"mask holds other values than classes 0 to {HIGHEST}")
    return whole.astype(np.uint8)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
