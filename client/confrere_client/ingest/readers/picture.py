"""Pictures: PNG, JPEG, TIFF and BMP, upright, without alpha, grey or colour, 8 or 16 bits."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from confrere_client.data.decode import FORMATS, decode_image
from confrere_client.ingest.reader import Exam, Part, Reader, Skipped
from confrere_client.ingest.shaping.resample import shape_for
from confrere_client.source import UnreadableImage

MARKS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\x00",
    b"MM\x00*",
    b"BM",
    b"II+\x00",
    b"MM\x00+",
)
"""How files of these formats begin."""

DENSEST = 10_000
"""Bytes of pixels that a byte of a file can hold at most: 1032 in PNG and TIFF (deflate), times
eight where a pixel is one bit."""

BANDS = {"RGB": 3, "RGBA": 4, "CMYK": 4, "P": 3, "LA": 2, "YCbCr": 3, "LAB": 3, "I": 4, "F": 4}
"""Bytes a pixel that decoding takes, by Pillow's mode; 16 bits count as two."""


class Picture(Reader):
    """A file's first picture. Whatever metadata it carries (EXIF, comments) stays behind.

    A picture says nothing of its patient, its modality or its spacing: DPI is about paper.
    """

    last_resort: ClassVar[bool] = True

    def claims(self, head: bytes, file: Path) -> bool:  # noqa: ARG002
        """Say whether the file begins as one of the formats does."""
        return head.startswith(MARKS)

    def index(self, file: Path) -> Sequence[Part]:
        """Return the one part that the file is, from its header."""
        try:
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                wide = 2 if image.mode.startswith("I;16") else BANDS.get(image.mode, 1)
        except Image.DecompressionBombError:
            raise Skipped("claims too many pixels") from None
        except Exception as fault:  # Pillow raises anything on damaged headers
            raise Skipped("header is corrupt", type(fault).__name__) from None
        nbytes = width * height * wide
        if nbytes > file.stat().st_size * DENSEST:
            raise Skipped("truncated or corrupt", "it claims more pixels than it can hold")
        return [Part(file=file, group=str(file), nbytes=nbytes, extra={"size": [height, width]})]

    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield the picture: uint8 or uint16; one of 8 bits at ``picture_px`` already."""
        sides = tuple(parts[0].extra.get("size", ()))
        px = options.get("picture_px")
        fitted = shape_for(sides, (), px, None) if px and sides else sides
        try:
            pixels = decode_image(parts[0].file, fitted if fitted != sides else None)
        except UnreadableImage as fault:
            raise Skipped(_kind(str(fault))) from None
        source: tuple[int, ...] = ()
        if fitted != sides and pixels.shape[1:] in (fitted, fitted[::-1]):
            source = (len(pixels), *(sides if pixels.shape[1:] == fitted else sides[::-1]))
        tags = {"photometric": "rgb" if pixels.shape[0] == 3 else "grey"}
        yield Exam(pixels=np.asarray(pixels), tags=tags, source_shape=source)


def _kind(reason: str) -> str:
    for start, kind in (
        ("is truncated", "truncated or corrupt"),
        ("is over", "claims too many pixels"),
        ("is none of", "header is corrupt"),
    ):
        if reason.startswith(start):
            return kind
    return "claims too many pixels" if " over " in reason else reason
