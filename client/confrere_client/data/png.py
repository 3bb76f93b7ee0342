"""Plain PNG decoded in half of Pillow's time; all that is not plain is left to Pillow.

The pixels are the same to the bit: PNG loses nothing. What libpng refuses, Pillow is asked again.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

DEPTH, COLOUR = 24, 25
"""Where a header says how many bits a sample has, and what samples stand for."""

SHAPES = {"L": (0, 2), "RGB": (2, 3)}
"""Mode of Pillow -> the code of such colours, and how many axes the pixels have."""

IGNORED = frozenset({b"IDAT", b"IEND", b"IHDR", b"bKGD", b"cHRM", b"gAMA", b"iCCP", b"pHYs",
                     b"sBIT", b"sRGB", b"tIME"})  # fmt: skip
"""Chunks that neither turn a picture nor change its levels, as we read it: no eXIf, no tRNS."""

TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
TURNING = (b"Raw profile type", b"XML:")
"""How texts begin that may hold an orientation."""

SPARE_BYTES = 1 << 20
"""A file that is longer than its pixels by more carries something else."""


def plain_png(path: Path, opened: Image.Image) -> Image.Image | None:
    """Return the picture of a file that Pillow has *opened*; None where Pillow is to go on."""
    code, axes = SHAPES.get(opened.mode, (-1, 0))
    longest = opened.width * opened.height * 3 + SPARE_BYTES
    if opened.format != "PNG" or not axes or path.stat().st_size > longest:
        return None
    data = path.read_bytes()
    if (data[DEPTH], data[COLOUR]) != (8, code) or not all(_chunks_are_plain(data)):
        return None
    import imagecodecs

    try:
        found = imagecodecs.png_decode(data)
    except imagecodecs.PngError:
        return None
    wanted = (opened.height, opened.width, 3)[:axes]
    fits = found.shape == wanted and found.dtype == np.uint8
    return Image.fromarray(found) if fits else None


def _chunks_are_plain(data: bytes) -> Iterator[bool]:
    """Yield, for each chunk, whether it can be left unread; False where the last is missing."""
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 8 > len(data):
            yield False
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        text = kind in TEXTS and not data.startswith(TURNING, at + 8)
        yield kind in IGNORED or text
        at += 12 + length
