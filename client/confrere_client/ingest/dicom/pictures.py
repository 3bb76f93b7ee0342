"""DICOM pictures without a place in space: radiographs turned upright, cine loops thinned out.

Shapes: C channels, Y X pixels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.boundary import guarded
from confrere_client.ingest.dicom.frames import spacing
from confrere_client.ingest.dicom.header import parse
from confrere_client.ingest.dicom.pixels import decoded, in_unit
from confrere_client.ingest.dicom.values import numbers, text, texts, whole
from confrere_client.ingest.dicom.voi import voi_of
from confrere_client.ingest.reader import Exam, Part, Turned, Voi

MAX_FRAMES = 8
"""Of a cine loop at most so many frames are taken, evenly; the option ``max_frames`` overrides."""

CENTIMETRES = 3
"""The code of the unit in an ultrasound region. PS3.3 C.8.5.5.1.15."""

ADMITTED = ("burnt-in text admitted by the header",)

RADIOGRAPHS = ("cr", "dx", "mg", "rg", "io", "px", "rf", "xa")


def load_pictures(part: Part, options: Mapping[str, Any]) -> Iterator[Exam]:
    """Yield a picture, or chosen frames of a loop."""
    with guarded("corrupt"):
        ds = parse(part.file)
        count = max(1, whole(ds, "NumberOfFrames", 1))
        most = max(1, int(options.get("max_frames", MAX_FRAMES)))
        chosen = set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())
        made = [
            _exam(
                ds,
                in_unit(ds, stored, None, part.modality),
                part,
                f"f{index:04}" * (count > 1),
                voi_of(ds, part.modality, index),
            )
            for index, stored in enumerate(decoded(ds, options))
            if index in chosen
        ]
    yield from made


def _exam(ds: Any, pixels: NDArray[Any], part: Part, suffix: str, voi: Voi | None) -> Exam:
    upright, step = pixels, spacing(ds) or _ultrasound(ds) or ()
    tags = dict(part.extra["tags"])
    if part.modality in RADIOGRAPHS:
        upright, orientation, swapped = _upright(ds, pixels)
        step = step[::-1] if swapped else step
        tags |= {"orientation": orientation} if orientation else {}
    if not step:
        upright = _square(ds, upright)
    turned = Turned(size=pixels.shape[-2:], corners=_corners(ds, part.modality))
    moved = "orientation" in tags or upright.shape != pixels.shape
    return Exam(
        pixels=np.ascontiguousarray(upright),
        spacing_mm=tuple(step),
        turned=turned if moved else None,
        tags=tags,
        voi=voi,
        warnings=ADMITTED if text(ds, "BurnedInAnnotation").upper() == "YES" else (),
        suffix=suffix,
    )


def _corners(ds: Any, modality: str) -> tuple[int, ...]:
    """Return where the corners of a picture come to lie."""
    corners = np.arange(4).reshape(1, 2, 2)
    upright = _upright(ds, corners)[0] if modality in RADIOGRAPHS else corners
    return tuple(upright.ravel().tolist())


def _upright(ds: Any, pixels: NDArray[Any]) -> tuple[NDArray[Any], str, bool]:
    """Return a radiograph head up, its left side at the right as usual; how it lies; if turned.

    PatientOrientation names where rows and columns run to: L, F is the usual view from the front.
    """
    ways = [way[:1].upper() for way in texts(ds, "PatientOrientation")]
    if len(ways) != 2 or any(way not in "LRAPHF" for way in ways):
        return pixels, "", False
    row, column = ways
    turned = row in "HF" and column not in "HF"
    if turned:
        pixels, row, column = pixels.swapaxes(-1, -2), column, row
    if column == "H":
        pixels, column = pixels[..., ::-1, :], "F"
    if row == "R" and column == "F":
        pixels, row = pixels[..., ::-1], "L"
    return pixels, row + column, turned


def _ultrasound(ds: Any) -> tuple[float, ...] | None:
    """Return millimetres a pixel when all calibrated regions of an ultrasound agree."""
    steps = set()
    for region in ds.get("SequenceOfUltrasoundRegions") or ():
        x, y = numbers(region, "PhysicalDeltaX", 1), numbers(region, "PhysicalDeltaY", 1)
        units = {whole(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
        if x and y and units == {CENTIMETRES}:
            steps.add((round(abs(y[0]) * 10, 6), round(abs(x[0]) * 10, 6)))
    found = steps.pop() if len(steps) == 1 else None
    return found if found and all(1e-4 < step < 1e2 for step in found) else None


def _square(ds: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return a picture with square pixels, where only their aspect (height, width) is known."""
    aspect = numbers(ds, "PixelAspectRatio", 2)
    if aspect is None or min(aspect) <= 0 or not 0.1 <= aspect[0] / aspect[1] <= 10:
        return pixels
    stretch = aspect[0] / aspect[1]
    if abs(stretch - 1) < 0.01:
        return pixels
    from scipy.ndimage import zoom

    factors = (1, stretch, 1) if stretch > 1 else (1, 1, 1 / stretch)
    made: NDArray[Any] = zoom(pixels, factors, order=1)
    return made
