"""The spool: decoded images written one after the other, then closed as one plain .npy file.

Images that keep their own sizes lie in it as one row of voxels.

Depth and channels of the whole are known only at the end, and no image is decoded twice. So each is
written as it is; only if they differ are they made alike, in a second pass over the file.
"""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from confrere_client.data.decode import Pixels, deepen, recolour
from confrere_common.errors import DataError

HEADER_BYTES = 4096
"""Room for the .npy header; the pixels then begin on a page."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one image lies in the spool."""

    row: int
    channels: int
    dtype: str
    sides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Return how long it is."""
        return self.channels * math.prod(self.sides) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """What a closed file holds."""

    shape: tuple[int, ...]
    dtype: str
    rows: tuple[int, ...]
    """Which images it holds, in order."""

    channels: int
    sides: tuple[tuple[int, ...], ...]
    """[Z] Y X of each image."""

    skipped: tuple[tuple[int, str], ...]
    """Row and reason of images that cannot be made like the others."""


class Spool:
    """A growing file of images whose sides are those of the first, or each its *own*."""

    def __init__(self, folder: Path, *, own: bool = False) -> None:
        self._own = own
        self._path = folder / "pixels.npy"
        self._kinds: list[Kind] = []
        self._sides: tuple[int, ...] = ()
        with disk():
            self._file: IO[bytes] = self._path.open("wb")
            self._file.write(bytes(HEADER_BYTES))

    def dims(self) -> int:
        """Return 2 or 3 for what the first image was; 0 while there is none."""
        return len(self._sides)

    def append(self, row: int, image: Pixels) -> None:
        """Write one image; DataError when the disk is full."""
        self._sides = self._sides or image.shape[1:]
        channels, *sides = image.shape
        kind = Kind(row=row, channels=channels, dtype=image.dtype.name, sides=tuple(sides))
        self._kinds.append(kind)
        with disk():
            self._file.write(np.ascontiguousarray(image).data)

    def finish(self) -> Spooled:
        """Make the images alike, write the header, and bring all to the disk."""
        channels = max(kind.channels for kind in self._kinds)
        kept = [kind for kind in self._kinds if kind.channels in (1, channels)]
        dtype = "uint16" if any(kind.dtype == "uint16" for kind in kept) else "uint8"
        sides = tuple(kind.sides for kind in kept)
        shape: tuple[int, ...] = (len(kept), channels, *self._sides)
        if self._own:
            shape = (channels * sum(map(math.prod, sides)),)
        with disk():
            self._file.flush()
            if any((kind.channels, kind.dtype) != (channels, dtype) for kind in self._kinds):
                self._make_alike(channels, dtype)
            self._file.seek(0)
            self._file.write(header(shape, dtype))
            self._file.flush()
            os.fsync(self._file.fileno())
        reason = f"has a number of channels other than 1 or {channels}, as the others have"
        return Spooled(
            shape=shape,
            dtype=dtype,
            rows=tuple(kind.row for kind in kept),
            channels=channels,
            sides=sides,
            skipped=tuple(
                (kind.row, reason) for kind in self._kinds if kind.channels not in (1, channels)
            ),
        )

    def close(self) -> None:
        """Close the file, whatever became of it."""
        with disk():
            self._file.close()

    def _make_alike(self, channels: int, dtype: str) -> None:
        """Write all images anew with the same channels and depth; memory is one image."""
        mixed = self._path.with_suffix(".mixed")
        self._path.rename(mixed)
        self._file.close()
        self._file = self._path.open("wb")
        self._file.write(bytes(HEADER_BYTES))
        for kind, image in self._images(mixed):
            if kind.channels in (1, channels):
                deep = deepen(image) if dtype == "uint16" else image
                self._file.write(np.ascontiguousarray(recolour(deep, channels)).data)
        mixed.unlink()

    def _images(self, path: Path) -> Iterator[tuple[Kind, Pixels]]:
        with path.open("rb") as file:
            file.seek(HEADER_BYTES)
            for kind in self._kinds:
                data = file.read(kind.nbytes)
                yield kind, np.frombuffer(data, kind.dtype).reshape(kind.channels, *kind.sides)


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return a .npy header (format 1.0) of exactly HEADER_BYTES."""
    told = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    room = HEADER_BYTES - 10
    text = repr(told).ljust(room - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.encode("ascii")


@contextmanager
def disk() -> Iterator[None]:
    """Turn a fault of the disk into a DataError that says what to do."""
    try:
        yield
    except OSError as fault:
        remedy = "Free space" if fault.errno in FULL else "Make it writable"
        what = "is full" if fault.errno in FULL else f"cannot be written ({fault.strerror})"
        raise DataError(
            f"the disk of the image cache {what}. Nothing half-written is kept. {remedy}, or set "
            "CONFRERE_CACHE to a folder elsewhere."
        ) from None
