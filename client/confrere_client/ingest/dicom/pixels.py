"""The pixels of a DICOM file: decompressed, in their own unit, bright where much is seen.

Shapes: C channels, Y X pixels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.boundary import refuse_huge
from confrere_client.ingest.dicom.codestream import Size, refuse_foreign
from confrere_client.ingest.dicom.header import nbytes, transfer_syntax
from confrere_client.ingest.dicom.jpeg import register
from confrere_client.ingest.dicom.values import number, numbers, text, whole
from confrere_client.ingest.reader import Skipped

HOLDERS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
MEASURED = ("ct", "mr", "pt", "nm")
"""Modalities whose values are measures: MONOCHROME1 says only how they are displayed."""


def decoded(ds: Any, options: Mapping[str, Any]) -> Iterator[NDArray[Any]]:
    """Yield every frame as (C, Y, X), as stored but for colour, which is RGB."""
    refuse_huge(nbytes(ds), options)
    _refuse_incomplete(ds)
    for frame in _frames(ds):
        yield _colour(ds, frame)


def _frames(ds: Any) -> Iterator[NDArray[Any]]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(transfer_syntax(ds))
    register()
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Skipped("unknown transfer syntax", "no decoder for it") from None
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax.is_compressed:
        _refuse_codestreams(ds)
    count = max(1, whole(ds, "NumberOfFrames", 1))
    seen = 0
    for array, _ in decoder.iter_array(ds, raw=False, allow_excess_frames=False):
        seen += 1
        if seen > count:
            return
        yield np.asarray(array)
    if seen < count:
        raise Skipped("truncated", f"{seen} of {count} frames")


def _refuse_incomplete(ds: Any) -> None:
    """Skip a file without pixels, or with fewer bytes of them than its header announces."""
    holder = next((name for name in HOLDERS if ds.get(name) is not None), None)
    if holder is None:
        raise Skipped("no pixel data")
    from pydicom.uid import UID

    held, wanted = len(ds[holder].value or b""), stored(ds)
    if not UID(transfer_syntax(ds)).is_compressed and held < wanted:
        raise Skipped("truncated" if held else "no pixel data", f"{held} of {wanted} bytes")


def stored(ds: Any) -> int:
    """Return how many bytes uncompressed pixels take in the file."""
    samples, bits = max(1, whole(ds, "SamplesPerPixel", 1)), whole(ds, "BitsAllocated", 8)
    pixels = whole(ds, "Rows") * whole(ds, "Columns") * max(1, whole(ds, "NumberOfFrames", 1))
    if samples == 3 and text(ds, "PhotometricInterpretation") in (
        "YBR_FULL_422",
        "YBR_PARTIAL_422",
    ):
        samples = 2
    return (pixels * samples * bits + 7) // 8


def _refuse_codestreams(ds: Any) -> None:
    from pydicom.encaps import generate_frames

    wanted = Size(
        rows=whole(ds, "Rows"),
        columns=whole(ds, "Columns"),
        samples=max(1, whole(ds, "SamplesPerPixel", 1)),
    )
    count = max(1, whole(ds, "NumberOfFrames", 1))
    for frame in generate_frames(ds.PixelData, number_of_frames=count):
        refuse_foreign(frame, wanted)


def _colour(ds: Any, frame: NDArray[Any]) -> NDArray[Any]:
    """Return a frame as (C, Y, X): a palette applied, colour in 8 bits, grey as it is."""
    bits = whole(ds, "BitsStored", 8 * frame.dtype.itemsize)
    if palette := _palette(ds):
        from pydicom.pixels.processing import apply_color_lut

        frame = apply_color_lut(frame, ds)[..., :3]
        bits = 16 if frame.max() > 255 else 8  # some write 8 bits into 16
    if frame.ndim == 2:
        return frame[None]
    if frame.ndim != 3 or frame.shape[2] not in (3, 4) or frame.dtype.kind != "u":
        raise Skipped("unknown colour", f"{frame.ndim} axes of {frame.dtype}")
    colour = _eight_bits(frame[..., :3], bits)
    if palette and (colour == colour[..., :1]).all():
        colour = colour[..., :1]
    return np.ascontiguousarray(np.moveaxis(colour, -1, 0))


def _palette(ds: Any) -> bool:
    return "PALETTE" in text(ds, "PhotometricInterpretation")


def _eight_bits(colour: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    shift = np.array(max(0, bits - 8), colour.dtype)
    shifted: NDArray[np.uint8] = (colour >> shift).astype(np.uint8)
    return shifted


def in_unit(
    ds: Any, stored_CYX: NDArray[Any], scale: tuple[float, float] | None, modality: str
) -> NDArray[Any]:
    """Return a frame in its unit as float32; as stored when it is colour or has no unit.

    *scale*: slope and intercept of this frame; None takes the file's own.
    """
    if stored_CYX.shape[0] == 3 or _palette(ds):
        return stored_CYX
    values, turned = stored_CYX, is_turned(ds, modality)
    if ds.get("ModalityLUTSequence"):  # the table is for what is stored: it goes before the turn
        from pydicom.pixels.processing import apply_modality_lut

        found = np.asarray(apply_modality_lut(values, ds), np.float32)
        return _inverted(ds, found) if turned else found
    if turned:
        values = _inverted(ds, values)
    slope, intercept = scale or rescale(ds)
    if (slope, intercept) == (1, 0) and modality not in MEASURED and values.dtype in _WHOLE:
        return values
    scaled: NDArray[np.float32] = values.astype(np.float32)
    if (slope, intercept) != (1, 0):
        scaled *= np.float32(slope)
        scaled += np.float32(intercept)
    return scaled


_WHOLE = (np.dtype(np.uint8), np.dtype(np.uint16))


def rescale(ds: Any) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 when they are missing, and for a slope of 0."""
    slope = number(ds, "RescaleSlope", 1.0)
    return slope or 1.0, number(ds, "RescaleIntercept", 0.0)


def is_turned(ds: Any, modality: str) -> bool:
    """Say whether white and black of a picture are changed, so that much is bright."""
    inverse = text(ds, "PhotometricInterpretation") == "MONOCHROME1"
    return inverse and modality not in MEASURED


def top_of(ds: Any, bits_held: int, *, signed: bool) -> int:
    """Return what a stored value and its inverse add up to."""
    bits = min(max(whole(ds, "BitsStored", bits_held), 1), bits_held)
    return -1 if signed else (1 << bits) - 1


def _inverted(ds: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Return grey levels with white and black changed; padding stays darkest."""
    if values.dtype.kind == "f":
        return np.asarray(values.max() + values.min() - values)
    top = top_of(ds, 8 * values.dtype.itemsize, signed=values.dtype.kind == "i")
    turned: NDArray[Any] = np.array(top, values.dtype) - values
    if (padding := numbers(ds, "PixelPaddingValue")) is not None:
        turned[values == padding[0]] = turned.min()
    return turned
