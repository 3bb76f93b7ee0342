"""A whole slide, opened by OpenSlide or, failing that, as a TIFF pyramid; its label is never read.

Shapes: 3 colours, Y X pixels.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from confrere_client.ingest.dicom.header import is_slide
from confrere_client.ingest.reader import Skipped

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHERS = (b"ZISRAWFILE", b"[Virtual Microscope Specimen]", b"SQLite format 3")
SMALLEST_PX = 2048
"""A TIFF pyramid of no maker, smaller than this, is a picture."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
MAX_TILE_PIXELS = 1 << 26
"""Tiles as they are stored have a few hundred pixels a side; larger claims are refused."""

MOST_PAGES = 256
THUMBNAIL_PX = 1024
CENTIMETRE = 3
"""The code of the unit of a TIFF's resolution."""

MAX_LEVEL_BYTES = 1 << 30
"""A TIFF level that OpenSlide cannot read is held whole; no larger one is."""


class Slide(Protocol):
    """What is needed of an opened slide; positions and sizes are pixels of its finest level."""

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""

    @property
    def microns(self) -> float | None:
        """Return micrometres a pixel; None when the file does not say."""

    @property
    def vendor(self) -> str:
        """Return who made the scanner, '' when the file does not say."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return properties that may hold a name."""

    def thumbnail(self) -> NDArray[np.uint8]:
        """Return the slide at about `THUMBNAIL_PX` (Y, X, 3)."""

    def tile(self, x: int, y: int, side: int, px: int) -> NDArray[np.uint8]:
        """Return the square of *side* at (x, y) as (3, px, px); what lies outside is white."""


def may_be_slide(head: bytes, file: Path) -> bool:
    """Say whether *file* is a slide of a known maker, or a large pyramid."""
    mirax = file.suffix.lower() == ".mrxs" and head.startswith(b"\xff\xd8")
    if mirax or head.startswith(OTHERS):
        return _vendor(file) is not None
    if head[128:132] == b"DICM":
        return is_slide(head)
    if not head.startswith(TIFF):
        return False
    vendor = _vendor(file)
    return _is_large_pyramid(file) if vendor in (None, "generic-tiff") else True


def _vendor(file: Path) -> str | None:
    from openslide import OpenSlide

    found: str | None = OpenSlide.detect_format(str(file))
    return found


def _is_large_pyramid(file: Path) -> bool:
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        series = tiff.series[0]
        return len(series.levels) > 1 and max(series.shape) >= SMALLEST_PX


def open_slide(file: Path, stack: ExitStack) -> Slide:
    """Return *file* opened; it closes with *stack*. Skipped when neither library can read it."""
    from openslide import OpenSlide, OpenSlideError

    with file.open("rb") as stream:
        is_tiff = stream.read(4) in TIFF
    if is_tiff:
        _refuse_tiles(file)
    try:
        return Openslide(stack.enter_context(OpenSlide(str(file))))
    except OpenSlideError:
        with file.open("rb") as stream:
            if stream.read(4) not in TIFF:
                raise Skipped(
                    "unreadable slide", "damaged, incomplete, or its files moved"
                ) from None
    return Pyramid.opened(file, stack)


def _refuse_tiles(file: Path) -> None:
    """Skip a TIFF that claims enormous tiles: OpenSlide allocates them or aborts the process."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        pages: Any = tiff.pages[:MOST_PAGES]
        if any(page.is_tiled and page.tile[0] * page.tile[1] > MAX_TILE_PIXELS for page in pages):
            raise Skipped("too large", "the header claims enormous tiles")


class Openslide:
    """A slide through OpenSlide."""

    def __init__(self, slide: Any) -> None:
        self._slide = slide
        self.size: tuple[int, int] = slide.dimensions
        self.vendor = _maker(slide.properties)
        self.microns = _microns(slide.properties)
        self.texts = _texts(slide.properties)
        self._empty = WHITE

    def thumbnail(self) -> NDArray[np.uint8]:
        """Return the coarsest level that is large enough, at thumbnail size."""
        level = self._slide.get_best_level_for_downsample(max(1, max(self.size) / THUMBNAIL_PX))
        width, height = self._slide.level_dimensions[level]
        if 4 * width * height > MAX_LEVEL_BYTES:
            raise Skipped("too large", "the slide has no overview")
        region = self._slide.read_region((0, 0), level, (width, height))
        region.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        self._empty = _background(region)
        return np.asarray(_on(region, self._empty))

    def tile(self, x: int, y: int, side: int, px: int) -> NDArray[np.uint8]:
        """Return a tile from the level that is just finer than asked for."""
        level = self._slide.get_best_level_for_downsample(side / px)
        read = max(1, round(side / self._slide.level_downsamples[level]))
        return _tile(_on(self._slide.read_region((x, y), level, (read, read)), self._empty), px)


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """A TIFF pyramid through tifffile; one level of it is held in memory at a time."""

    size: tuple[int, int]
    microns: float | None
    levels: tuple[Any, ...]
    held: dict[int, NDArray[np.uint8]]
    vendor: str = ""
    texts: tuple[str, ...] = ()

    @classmethod
    def opened(cls, file: Path, stack: ExitStack) -> "Pyramid":
        """Return *file* opened; Skipped when it is not 8-bit colour."""
        from tifffile import TiffFile

        tiff = stack.enter_context(TiffFile(file))
        series = tiff.series[0]
        if len(series.shape) != 3 or series.shape[2] not in (3, 4) or series.dtype != np.uint8:
            raise Skipped("unreadable slide", "neither 8 bits nor colour")
        height, width = series.shape[:2]
        page: Any = tiff.pages[0]
        texts = [str(page.tags[name].value) for name in _TAGS if name in page.tags]
        return cls(
            size=(width, height),
            microns=_resolution(page.tags),
            levels=tuple(series.levels),
            held={},
            texts=tuple(texts),
        )

    def thumbnail(self) -> NDArray[np.uint8]:
        """Return the coarsest level at thumbnail size."""
        region = Image.fromarray(self._level(len(self.levels) - 1))
        region.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        return np.asarray(region)

    def tile(self, x: int, y: int, side: int, px: int) -> NDArray[np.uint8]:
        """Return a tile from the coarsest level that is fine enough."""
        factors = [self.size[0] / level.shape[1] for level in self.levels]
        at = max((n for n, factor in enumerate(factors) if factor <= side / px), default=0)
        level, read = self._level(at), max(1, round(side / factors[at]))
        left, top = round(x / factors[at]), round(y / factors[at])
        canvas = np.full((read, read, 3), 255, np.uint8)
        part = level[top : top + read, left : left + read]
        canvas[: part.shape[0], : part.shape[1]] = part
        return _tile(Image.fromarray(canvas), px)

    def _level(self, at: int) -> NDArray[np.uint8]:
        if at not in self.held:
            if self.levels[at].nbytes > MAX_LEVEL_BYTES:
                raise Skipped("too large", "a level of the slide has to be read whole")
            self.held.clear()
            self.held[at] = np.asarray(self.levels[at].asarray())[..., :3]
        return self.held[at]


_TAGS = ("ImageDescription", "Artist", "DateTime", "HostComputer", "Software")


def _resolution(tags: Any) -> float | None:
    """Return micrometres a pixel, when the file gives them a centimetre; inches are about paper."""
    if "XResolution" not in tags or "ResolutionUnit" not in tags:
        return None
    count, over = tags["XResolution"].value
    if int(tags["ResolutionUnit"].value) != CENTIMETRE or count <= 0 or over <= 0:
        return None
    microns = 10_000 * over / count
    return microns if 0.01 < microns < 100 else None


def _background(region: Image.Image) -> tuple[int, int, int]:
    """Return what a scanner's gaps shall look like: empty glass, or the dark of fluorescence."""
    values = np.asarray(region)
    seen = values[values[..., 3] > 127]
    return BLACK if seen.size and np.median(seen[:, :3]) < 128 else WHITE


def _on(region: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return RGB; what the scanner left out has *colour*."""
    made = Image.new("RGB", region.size, colour)
    made.paste(region, mask=region.getchannel("A"))
    return made


def _tile(region: Image.Image, px: int) -> NDArray[np.uint8]:
    if region.size != (px, px):
        region = region.resize((px, px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.moveaxis(np.asarray(region), -1, 0))


def _maker(properties: Mapping[str, str]) -> str:
    """Return who made the scanner; of DICOM, which is a maker to OpenSlide, the header says it."""
    found = str(properties.get("openslide.vendor", "")).removeprefix("generic-tiff")
    return properties.get("dicom.Manufacturer") or found if found == "dicom" else found


def _microns(properties: Mapping[str, str]) -> float | None:
    """Return the mean of both directions, when both are plausible."""
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    return (x + y) / 2 if all(0.01 < step < 100 for step in (x, y)) else None


def _texts(properties: Mapping[str, str]) -> tuple[str, ...]:
    """Return the properties of the maker, in pieces: names and dates stand among them."""
    found = []
    for key, value in properties.items():
        if not key.startswith("openslide."):
            found += [part.split("=")[-1].strip() for part in value.split("|")]
    return tuple(dict.fromkeys(part for part in found if 2 < len(part) <= 256))
