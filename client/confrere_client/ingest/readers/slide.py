"""Whole slides, tile by tile: tissue at one resolution, background left out.

Shapes: 3 colours, Y X pixels.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confrere_client.ingest.boundary import guarded
from confrere_client.ingest.dicom.header import parse_header
from confrere_client.ingest.dicom.names import identifiers, vendor
from confrere_client.ingest.dicom.values import text, whole
from confrere_client.ingest.reader import Exam, Part, Reader, Skipped
from confrere_client.ingest.slide.opened import MAX_TILE_PIXELS, may_be_slide, open_slide
from confrere_client.ingest.slide.opened import Slide as Opened
from confrere_client.ingest.slide.resolution import TILE_PX, resolution
from confrere_client.ingest.slide.tissue import evenly, tissue_cells, tissue_mask

MAX_TILES = 256
"""Tiles of one slide, spread over its tissue; the option ``max_tiles`` overrides it."""

LEAST_TISSUE = 0.5
"""A tile is taken when tissue covers as much of it."""

MOST_CELLS = 4_000_000


class Slide(Reader):
    """Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, Zeiss, DICOM and TIFF pyramids."""

    def claims(self, head: bytes, file: Path) -> bool:
        """Say whether the file is a slide; large pyramids among plain TIFFs are."""
        try:
            with guarded():
                return may_be_slide(head, file)
        except Skipped:
            return False

    def index(self, file: Path) -> Sequence[Part]:
        """Return the slide; the levels of a DICOM slide, one a file, are of one group."""
        with guarded("unreadable slide"), ExitStack() as stack:
            names, group, patient = _dicom(file)
            slide = open_slide(file, stack)
            if not slide.vendor:
                _grid(slide, {})  # a pyramid of no maker and no tissue is a picture
            return [
                Part(
                    file=file,
                    group=group or f"slide-{file}",
                    order=(-float(slide.size[0]),),  # the finest level first
                    patient=patient,
                    names=(*names, *slide.texts),
                    modality="sm",
                    nbytes=3 * TILE_PX * TILE_PX,
                )
            ]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield tiles of tissue; OpenSlide finds the other files of a DICOM slide by itself."""
        with ExitStack() as stack:
            with guarded("unreadable slide"):
                slide = open_slide(parts[0].file, stack)
                grid = _grid(slide, options)
            for cell in grid.cells:
                with guarded("unreadable slide"):
                    exam = _exam(slide, grid, cell)
                yield exam


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The tiles that are taken of a slide."""

    side: int
    """Of a tile, in pixels of the finest level."""

    px: int
    microns: float | None
    cells: tuple[tuple[int, int], ...]
    """Row and column of each tile."""


def _grid(slide: Opened, options: Mapping[str, Any]) -> Grid:
    """Return the tiles of tissue, at most as many as are wanted; Skipped when there are none."""
    told = resolution(options)
    wanted, px = told["microns_per_px"], told["tile_px"]
    # a slide is not enlarged: what was scanned coarser is taken as it is
    microns = None if slide.microns is None else max(wanted, slide.microns)
    factor = 1.0 if slide.microns is None or microns is None else microns / slide.microns
    side = max(1, round(px * factor))
    width, height = slide.size
    rows, columns = max(1, height // side), max(1, width // side)
    if rows * columns > MOST_CELLS:
        raise Skipped("too large", f"{rows} x {columns} tiles")
    mask = tissue_mask(slide.thumbnail())
    tall, wide = (
        _share(len(mask), rows * side, height),
        _share(mask.shape[1], columns * side, width),
    )
    cells = tissue_cells(mask[:tall, :wide], rows, columns, LEAST_TISSUE)
    if not cells:
        raise Skipped("no tissue")
    taken = evenly(cells, int(options.get("max_tiles", MAX_TILES)))
    return Grid(side=side, px=px, microns=microns, cells=tuple(taken))


def _share(pixels: int, part: int, whole: int) -> int:
    """Return how many of a thumbnail's pixels show *part* of a slide that is *whole* long."""
    return max(1, round(pixels * min(1, part / whole)))


def _exam(slide: Opened, grid: Grid, cell: tuple[int, int]) -> Exam:
    row, column = cell
    pixels = slide.tile(column * grid.side, row * grid.side, grid.side, grid.px)
    maker = vendor(slide.vendor)
    return Exam(
        pixels=pixels,
        spacing_mm=() if grid.microns is None else (grid.microns / 1000,) * 2,
        tags={"modality": "sm", **({"vendor": maker} if maker else {})},
        warnings=() if grid.microns is not None else ("unknown resolution",),
        suffix=f"y{row:05}x{column:05}",
    )


def _dicom(file: Path) -> tuple[tuple[str, ...], str, str]:
    """Return identifiers, group and patient of a DICOM slide; nothing for another format."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return (), "", ""
    ds, _ = parse_header(file)
    if whole(ds, "Rows") * whole(ds, "Columns") > MAX_TILE_PIXELS:
        raise Skipped("too large", "the header claims enormous tiles")
    group = hashlib.sha256(f"{file.parent} {text(ds, 'SeriesInstanceUID')}".encode()).hexdigest()
    return identifiers(ds), f"slide-{group[:32]}", text(ds, "PatientID") or text(ds, "PatientName")
