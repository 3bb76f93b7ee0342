"""Slices whose pixels stand uncompressed in the file are read straight from their place.

The index has found the place and what the values mean; the header is not parsed a second time,
which would take longer than reading the pixels.

Shapes: C channels, Y X pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.dicom.header import Place, transfer_syntax
from confrere_client.ingest.dicom.pixels import MEASURED, rescale
from confrere_client.ingest.dicom.values import holds, text, whole
from confrere_client.ingest.reader import Skipped

NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Transfer syntax -> order of bytes, of those that compress nothing."""


def native(ds: Any, place: Place | None, modality: str) -> dict[str, Any] | None:
    """Return, in plain values, how to read a single measured slice from its place; None for others.

    Whatever is unusual (colour, a lookup table, a shifted bit, 32 bits) goes through `pixels`.
    """
    bits, held = whole(ds, "BitsStored"), whole(ds, "BitsAllocated")
    order = NATIVE.get(transfer_syntax(ds))
    usual = (
        place is not None
        and place.length >= 0
        and bool(ds.filename)  # it stood deflated in the file
        and order is not None
        and modality in MEASURED
        and whole(ds, "SamplesPerPixel", 1) == 1
        and whole(ds, "NumberOfFrames", 1) <= 1
        and held in (8, 16)
        and 0 < bits <= held
        and whole(ds, "HighBit", bits - 1) == bits - 1
        and not holds(ds, "PixelData")
        and not holds(ds, "ModalityLUTSequence")
        and text(ds, "PhotometricInterpretation").startswith("MONOCHROME")
    )
    if not usual or place is None:
        return None
    sign = "i" if whole(ds, "PixelRepresentation") else "u"
    return {
        "offset": place.offset,
        "dtype": f"{order}{sign}{held // 8}",
        "spare": held - bits,
        "shape": [whole(ds, "Rows"), whole(ds, "Columns")],
        "scale": list(rescale(ds)),
    }


def read_native(file: Path, how: Mapping[str, Any], into_YX: NDArray[np.float32]) -> None:
    """Read a slice into its place in a volume, in its unit; Skipped when the file is short."""
    rows, columns = how["shape"]
    stored = np.fromfile(file, how["dtype"], rows * columns, offset=how["offset"])
    if stored.size < rows * columns:
        raise Skipped("truncated", "fewer pixels than its header announces")
    if how["spare"]:  # bits over the stored ones may hold an overlay
        spare = np.array(how["spare"], stored.dtype)
        stored = (stored << spare) >> spare
    slope, intercept = how["scale"]
    np.multiply(stored.reshape(rows, columns), np.float32(slope), out=into_YX, casting="unsafe")
    if intercept:
        into_YX += np.float32(intercept)
