"""The images of a source, decoded, one size, mapped from the cache; and batches and crops of them.

Shapes: N images, B rows, C channels, Z Y X voxels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.boxes import Boxes
from confrere_client.data.cache import Progress, build, stored
from confrere_client.data.catalog import Catalog, catalog_of, check_patients
from confrere_client.data.decode import Pixels, fit
from confrere_client.data.masks import Masks
from confrere_client.source import Record, Source, open_source
from confrere_common.errors import DataError
from confrere_common.family import Named


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Every readable image of a source. The pixels stay on disk until they are asked for."""

    pixels: NDArray[Any]
    """Memory-mapped, read-only: (N, C, Y, X) or (N, C, Z, Y, X), uint8 or uint16."""

    catalog: Catalog
    """What is known of each, in the same order."""

    skipped: tuple[tuple[str, str], ...]
    """Name and reason of each image that could not be decoded; for reports that stay here."""

    digest: str
    """Changes with the images, with what is known of them, and with size and channels."""

    masks: Masks | None = None
    """What was drawn on them; read when it is first asked for."""

    boxes: Boxes | None = None
    """What was boxed in them, as well."""

    preparation: Mapping[str, Any] | None = None
    """How they were prepared before, as the source has it."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        """Return 1 for grey, 3 for colour."""
        return int(self.pixels.shape[1])

    @property
    def size(self) -> int:
        """Return how many pixels each side has."""
        return int(self.pixels.shape[-1])

    @property
    def dims(self) -> int:
        """Return 2 for pictures, 3 for volumes."""
        return self.pixels.ndim - 2

    def batch(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return a copy of *rows* as (B, C, [Z,] Y, X), uint8 or uint16, in that order."""
        plain = np.asarray(self.pixels)  # indexing a memmap itself costs twice as much a call
        return torch.from_numpy(plain[rows])

    def known(self, kind: str, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return what is known of *rows*: 'label' (-1 where unknown), 'mask' or 'boxes'."""
        if kind == "boxes" and self.boxes is not None:
            return torch.from_numpy(self.boxes.values[rows])
        if kind == "mask" and self.masks is not None:
            return torch.from_numpy(self.masks.values[rows].astype(np.int64))
        if kind != "label":
            raise DataError(f"these images have no {kind}.")
        return torch.from_numpy(self.catalog.labels[rows])

    @property
    def _drawn(self) -> Mapping[str, Masks | Boxes | None]:
        return {"mask": self.masks, "boxes": self.boxes}

    def has(self, kind: str) -> NDArray[np.bool_]:
        """Say of which images *kind* is known, shape (N,)."""
        if kind == "label":
            return np.asarray(self.catalog.labels >= 0)
        if (drawn := self._drawn.get(kind)) is not None:
            return drawn.known
        return np.zeros(len(self), np.bool_)

    def crop(self, row: int, corner: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        """Return a copy of the box at *corner* of one image, (C, [Z,] Y, X), reading only that."""
        ends = [start + side for start, side in zip(corner, size, strict=True)]
        inside = all(
            0 <= start <= end <= limit
            for start, end, limit in zip(corner, ends, self.pixels.shape[2:], strict=True)
        )
        if not inside:
            raise IndexError(f"a crop from {tuple(corner)} to {tuple(ends)} leaves the image")
        box = tuple(slice(start, end) for start, end in zip(corner, ends, strict=True))
        plain: Any = np.asarray(self.pixels)
        # always a copy: a view of the map is read-only, and torch would let it be written
        return torch.from_numpy(np.array(plain[(row, slice(None), *box)]))


def open_images(
    source: Named,
    *,
    folder: Path,
    image_px: int,
    channels: int | None = None,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Images:
    """Return the images of the source that a run names; *folder* is that of the run's file.

    They are decoded unless the cache holds them. *channels* None: 3 if any image is colour, else 1.
    16 bits if any image has them. DataError when none can be read or the cache cannot be written.
    """
    return images_of(
        open_source(source, folder),
        image_px=image_px,
        channels=channels,
        cache_dir=cache_dir,
        progress=progress,
    )


def images_of(
    source: Source,
    *,
    image_px: int,
    channels: int | None = None,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Images:
    """Return the images of a source; see `open_images`. ``progress(done, of)`` while decoding."""

    def prepare(record: Record) -> Pixels:
        return fit(record.decode(), image_px, channels)

    records = source.records()
    check_patients(records)
    digest = content_digest(source, image_px, channels)
    home = cache_dir / digest[:32]
    manifest = stored(home, digest, len(records))
    if manifest is None:
        build(records, prepare, digest, home, progress)
        manifest = stored(home, digest, len(records))
    if manifest is None:
        raise DataError("the image cache was written but reads back damaged: check its disk.")
    pixels, kept = (
        np.load(home / "pixels.npy", mmap_mode="r"),
        [records[r] for r in manifest["rows"]],
    )
    drawn, boxed = (any(getattr(r, kind) is not None for r in kept) for kind in ("mask", "boxes"))
    return Images(
        pixels=pixels,
        catalog=catalog_of(kept),
        masks=Masks(records=kept, home=home, shape=pixels.shape[2:]) if drawn else None,
        boxes=Boxes(records=kept, home=home, shape=pixels.shape[2:]) if boxed else None,
        skipped=tuple((records[row].name, reason) for row, reason in manifest["skipped"]),
        digest=digest,
        preparation=source.preparation,
    )


def content_digest(source: Source, image_px: int, channels: int | None) -> str:
    """Return SHA-256 over the source's content and what is asked of it."""
    asked = (type(source).__name__, image_px, channels)
    running = hashlib.sha256(json.dumps(asked).encode())
    for piece in source.fingerprint():
        running.update(piece)
    return running.hexdigest()
