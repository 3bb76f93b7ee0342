"""The images of a source, mapped: of one size from the cache, or as they are, to take crops of.

Shapes: N images, B rows, A axes, C channels, Z Y X voxels.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from confrere_client.data.volumes import Volumes, anywhere, around, opened, part
from confrere_client.source import Record, Source, open_source
from confrere_common.config import crop_sides
from confrere_common.errors import DataError
from confrere_common.family import Named

MARKED = 0.5
"""How many of the crops that a segmentation learns from have a marked voxel in their middle."""


WHOLE = ()
"""The size that is asked of images which stay as they are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Every readable image of a source. The pixels stay on disk until they are asked for.

    Where a run takes crops, an image is its crop, from the middle unless `cut` drew another place;
    `whole` and `whole_mask` give all of it.
    """

    pixels: NDArray[Any] | Volumes
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

    corners: Sequence[Sequence[int]] | None = None
    """Where the crops of the rows that are asked for next begin, in their order; see `cut`."""

    spacings_mm: Sequence[tuple[float, ...]] = ()
    """Of each, along [Z] Y X, where it is as the source has it; () for one whose is not known."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def channels(self) -> int:
        """Return 1 for grey, 3 for colour."""
        return int(self.pixels.shape[1])

    @property
    def size(self) -> int:
        """Return how many pixels the longest side has."""
        return max(self.sides)

    @property
    def sides(self) -> tuple[int, ...]:
        """Return how many pixels each side has, along [Z] Y X."""
        return tuple(map(int, self.pixels.shape[2:]))

    @property
    def cropped(self) -> bool:
        """Say whether a run sees crops of the images, not all of them."""
        return isinstance(self.pixels, Volumes)

    @property
    def dims(self) -> int:
        """Return 2 for pictures, 3 for volumes."""
        return self.pixels.ndim - 2

    def batch(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return a copy of *rows* as (B, C, [Z,] Y, X), uint8 or uint16, in that order."""
        if isinstance(self.pixels, Volumes):
            crops = np.empty((len(rows), *self.pixels.shape[1:]), self.pixels.dtype)
            for place, (row, at) in enumerate(self._corners(self.pixels, rows)):
                crops[place] = self.pixels.part(row, at, self.pixels.crop)
            return torch.from_numpy(crops)
        plain = np.asarray(self.pixels)  # indexing a memmap itself costs twice as much a call
        return torch.from_numpy(plain[rows])

    def known(self, kind: str, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return what is known of *rows*: 'label' (-1 where unknown), 'mask' or 'boxes'."""
        if kind == "boxes" and self.boxes is not None:
            return torch.from_numpy(self.boxes.values[rows])
        if kind == "mask" and self.masks is not None:
            return torch.from_numpy(self._masks(self.masks, rows).astype(np.int64))
        if kind != "label":
            raise DataError(
                f"these images have no {kind}: name a column of them in the source, or choose a "
                "method or task that asks for none."
            )
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
        """Return a copy of the box at *corner* of one image, (C, [Z,] Y, X), reading only that.

        What of it lies outside the image is black.
        """
        if isinstance(self.pixels, Volumes):
            return torch.from_numpy(self.pixels.part(row, corner, size))
        return torch.from_numpy(part(np.asarray(self.pixels)[row], corner, size))

    def cut(
        self, rows: NDArray[np.int64], generator: torch.Generator, *, marked: bool = False
    ) -> "Images":
        """Return the images as one step sees *rows*, asked for in that order: at places drawn anew.

        Half of the crops have a *marked* voxel in their middle, if that is asked and the image has
        one. Where a run takes images whole nothing is drawn.
        """
        if not isinstance(self.pixels, Volumes):
            return self
        draws = torch.rand(len(rows), self.dims + 2, generator=generator, dtype=torch.float64)
        pairs = zip(rows, draws.numpy(), strict=True)
        corners = [self._drawn_at(self.pixels, int(row), d, marked=marked) for row, d in pairs]
        return replace(self, corners=corners)

    def whole(self, row: int) -> torch.Tensor:
        """Return a copy of all of one image, (1, C, [Z,] Y, X)."""
        if not isinstance(self.pixels, Volumes):
            return self.batch(np.array([row]))
        size = self.pixels.sizes[row]
        return self.crop(row, (0,) * len(size), size)[None]

    def whole_mask(self, row: int) -> NDArray[np.uint8]:
        """Return all of one image's mask, ([Z,] Y, X), as it lies on the disk."""
        if self.masks is None:
            raise DataError("these images have no mask.")
        return self.masks.of(row)

    def _corners(
        self, volumes: Volumes, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, Sequence[int]]]:
        corners = self.corners or [volumes.middle(int(row)) for row in rows]
        return zip(map(int, rows), corners, strict=True)

    def _masks(self, masks: Masks, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        if not isinstance(self.pixels, Volumes):
            return masks.values[rows]
        corners, crop = self._corners(self.pixels, rows), self.pixels.crop
        return np.stack([part(masks.of(row), corner, crop) for row, corner in corners])

    def _drawn_at(
        self, volumes: Volumes, row: int, draws: NDArray[np.float64], *, marked: bool
    ) -> Sequence[int]:
        *_, whether, which = draws
        sides = volumes.sizes[row]
        places = self.masks.places(row) if marked and self.masks is not None else ()
        if places and whether < MARKED:
            voxel = np.unravel_index(places[int(which * len(places))], sides)
            return around([int(place) for place in voxel], sides, volumes.crop)
        return anywhere(sides, volumes.crop, draws[:-2])


def open_images(  # noqa: PLR0913  (what a run says of its images)
    source: Named,
    *,
    folder: Path,
    image_px: int,
    crop_px: tuple[int, ...] | None = None,
    channels: int | None = None,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Images:
    """Return the images of the source that a run names; *folder* is that of the run's file.

    They are decoded unless the cache holds them; see `images_of` for *crop_px*. *channels* None: 3
    if any image is colour, else 1. 16 bits if any image has them. DataError when none can be read
    or the cache cannot be written.
    """
    return images_of(
        open_source(source, folder),
        image_px=image_px,
        crop_px=crop_px,
        channels=channels,
        cache_dir=cache_dir,
        progress=progress,
    )


def images_of(
    source: Source,
    *,
    image_px: int,
    crop_px: tuple[int, ...] | None = None,
    channels: int | None = None,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Images:
    """Return the images of a source; see `open_images`. ``progress(done, of)`` while decoding.

    With *crop_px* they stay as they are (`Volumes`), and *image_px* is not looked at.
    """
    if crop_px is not None:
        return _uncut(source, crop_px, channels, cache_dir, progress)

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


def _uncut(
    source: Source,
    crop_px: tuple[int, ...],
    channels: int | None,
    cache_dir: Path,
    progress: Progress | None,
) -> Images:
    """Return images of which crops are taken; those that are mapped already are copied nowhere."""
    records = source.records()
    check_patients(records)
    digest = content_digest(source, WHOLE, channels)  # of the cache, which serves crops of any size
    home = cache_dir / digest[:32]
    its = opened(records, channels, digest=digest, home=home, progress=progress)
    crop = crop_sides(crop_px, len(its.sizes[0]))
    kept = [records[row] for row in its.rows]
    drawn = any(record.mask is not None for record in kept)
    return Images(
        pixels=Volumes(
            arrays=its.arrays, sizes=its.sizes, crop=crop, channels=its.channels, dtype=its.dtype
        ),
        catalog=catalog_of(kept),
        masks=Masks(records=kept, home=home, shape=crop, own=its.sizes) if drawn else None,
        skipped=tuple((records[row].name, reason) for row, reason in its.skipped),
        digest=content_digest(source, crop_px, channels),
        preparation=source.preparation,
        spacings_mm=[record.spacing_mm for record in kept],
    )


def content_digest(source: Source, size: int | tuple[int, ...], channels: int | None) -> str:
    """Return SHA-256 over the source's content and what is asked of it: image_px, or crop_px."""
    asked = (type(source).__name__, size, channels)
    running = hashlib.sha256(json.dumps(asked).encode())
    for piece in source.fingerprint():
        running.update(piece)
    return running.hexdigest()
