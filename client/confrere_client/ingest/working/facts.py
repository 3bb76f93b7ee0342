"""What is kept of an exam beside its pixels: technical tags, and figures that the pixels give.

Shapes: C channels, Z Y X voxels.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from confrere_client.ingest.reader import TECHNICAL, Exam
from confrere_client.ingest.shaping.strided import every

BINS = 32
"""Of the histogram of stored levels, black to white."""

LOOKED_AT = 1 << 13
"""Voxels, evenly spread, that an exam's figures in its own unit are taken from."""

CHUNK = 1 << 20
DIGEST_BYTES = 16
PARTS = (0.01, 0.5, 0.99)

LOOK_PX = 32
_COSINES = np.cos(np.pi / LOOK_PX * np.arange(8)[:, None] * (np.arange(LOOK_PX) + 0.5))

TEXT_AT_MOST = 64
LEAST_NAME = 3


def facts_of(exam: Exam, pixels: NDArray[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the plain facts of *exam*, whose stored *pixels* are (C, [Z,] Y, X)."""
    return {
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "source_shape": list(exam.source_shape or exam.pixels.shape),
        "spacing_mm": [round(float(side), 6) for side in exam.spacing_mm],
        "tags": technical(exam, names),
        "warnings": sorted({phrase[:TEXT_AT_MOST] for phrase in exam.warnings}),
        "label": exam.label,
        "split": exam.split,
        "digest": digest_of(pixels),
        "look": looks_like(pixels),
        **levels(pixels),
        **units(exam.pixels),
    }


def technical(exam: Exam, names: tuple[str, ...]) -> dict[str, str | float]:
    """Return the tags on the list, and of these no text that holds one of *names*.

    What may be said freely in a header (a body part) may be a person, where somebody typed it so.
    """
    told = [name.casefold() for name in names if len(name) >= LEAST_NAME]
    kept: dict[str, str | float] = {}
    for key, value in exam.tags.items():
        if key not in TECHNICAL or value == "":
            continue
        if isinstance(value, str):
            text = "".join(mark for mark in value if mark.isprintable())[:TEXT_AT_MOST].strip()
            if not any(name in text.casefold() for name in told):
                kept[key] = text
        elif np.isfinite(value):
            kept[key] = round(float(value), 6)
    return kept


def levels(pixels: NDArray[Any]) -> dict[str, Any]:
    """Return figures of the stored levels, each from 0 (black) to 1 (white)."""
    flat = pixels.reshape(-1)
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, CHUNK):
        counts += _counted(flat[start : start + CHUNK])
    share = counts / counts.sum()
    mids = (np.arange(256) + 0.5) / 256
    mean = float(share @ mids)
    return {
        "mean": round(mean, 6),
        "std": round(float(share @ (mids - mean) ** 2) ** 0.5, 6),
        "black": round(float(share[0]), 6),
        "white": round(float(share[-1]), 6),
        "histogram": [int(count) for count in counts.reshape(BINS, -1).sum(1)],
    }


def _counted(levels: NDArray[Any]) -> NDArray[np.int64]:
    """Count the levels in 8 bits; Pillow does it ten times faster than NumPy, which widens them."""
    narrow = levels if levels.dtype == np.uint8 else (levels >> 8).astype(np.uint8)
    return np.asarray(Image.fromarray(narrow[None]).histogram(), np.int64)


def units(values: NDArray[Any]) -> dict[str, float]:
    """Return 1st, 50th and 99th percentile of an exam in the unit of its file (HU, levels)."""
    some = every(values, max(1, values.size // LOOKED_AT) | 1)  # odd: every column in turn
    finite = some[np.isfinite(some)] if some.dtype.kind == "f" else some
    places = [int(part * (finite.size - 1)) for part in PARTS]
    ends = _ordered(finite, places)[places] if finite.size else (0, 0, 0)
    return {
        name: float(end)
        for name, end in zip(("unit_p1", "unit_p50", "unit_p99"), ends, strict=True)
    }


def _ordered(values: NDArray[Any], places: list[int]) -> NDArray[Any]:
    """Return values of which those at *places* stand where sorting would put them.

    Those of 8 bits are counted, which is faster: it branches on none of them.
    """
    if values.dtype != np.uint8:
        return np.partition(values, places)
    return np.repeat(np.arange(256), _counted(np.ascontiguousarray(values)))


def looks_like(pixels: NDArray[Any]) -> int:
    """Return the perceptual hash of a picture, or of a volume's middle slice, as a signed integer.

    Which of the 64 lowest cosine frequencies are above their median (the pHash of Zauner, 2010,
    without its mean): pictures that look alike differ in few bits.
    """
    plane = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels
    narrow = plane if plane.dtype == np.uint8 else (plane >> 8).astype(np.uint8)
    small = _small(narrow)
    low = _COSINES @ small @ _COSINES.T
    middle = np.sort(low, axis=None)[low.size // 2 - 1 : low.size // 2 + 1].mean()  # the median
    return int(np.packbits(low > middle).view(">i8")[0])


def _small(plane_CYX: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean of the channels at `LOOK_PX`; they are shrunk first, all as one picture."""
    channels, rows, columns = plane_CYX.shape
    factor = max(1, min(rows, columns) // (2 * LOOK_PX))
    whole = plane_CYX[:, : rows // factor * factor].reshape(-1, columns)
    shrunk = np.asarray(Image.fromarray(whole).reduce(factor))
    grey = shrunk.reshape(channels, -1, shrunk.shape[-1])
    picture = Image.fromarray(grey[0] if channels == 1 else grey.mean(0).astype(np.uint8))
    made = picture.resize((LOOK_PX, LOOK_PX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(made, np.float64)


def digest_of(pixels: NDArray[Any]) -> str:
    """Return 128 bits of the SHA-256 of an image's shape, type and bytes.

    Processors compute SHA-256 in hardware, twice as fast as BLAKE2.
    """
    running = hashlib.sha256(f"{pixels.shape}{pixels.dtype.name}\n".encode())
    running.update(np.ascontiguousarray(pixels).data)
    return running.digest()[:DIGEST_BYTES].hex()
