import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from confrere_client.data.decode import FORMATS, decode_image
from confrere_client.data.png import plain_png
from confrere_client.source import UnreadableImage

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (37, 53, 3)).astype(np.uint8)
TURNED = Image.Exif()
TURNED[274] = 6


def packed(values: Any, mode: str = "RGB", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(values).convert(mode).save(data, "PNG", **options)
    return data.getvalue()


def quickly(path: Path) -> Image.Image | None:
    with Image.open(path, formats=FORMATS) as opened:
        return plain_png(path, opened)


def text(key: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, "said")
    return info


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"dpi": (72, 72)}, {"pnginfo": text("Software")}])
def test_plain_png_is_what_pillow_makes_of_it(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(packed(COLOUR, mode, **options))

    found = quickly(path)

    assert found is not None
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(found), np.asarray(image))


@pytest.mark.parametrize(
    "data",
    [
        packed(COLOUR, "RGBA"),
        packed(COLOUR, "P"),
        packed(COLOUR, "1"),
        packed(COLOUR, "RGB", transparency=(1, 2, 3)),
        packed(COLOUR, "RGB", exif=TURNED),
        packed(COLOUR, "RGB", pnginfo=text("XML:com.adobe.xmp")),
        packed(RNG.integers(0, 60_000, (9, 9)).astype(np.uint16), "I;16"),
        packed(COLOUR)[:-12],
        packed(COLOUR) + bytes(2 << 20),
    ],
    ids=["alpha", "palette", "bits", "clear", "exif", "xmp", "deep", "no end", "trailing"],
)
def test_png_that_is_not_plain_is_left_to_pillow(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)

    assert quickly(tmp_path / "a.png") is None


def test_a_damaged_png_is_refused_wherever_pillow_refuses_it(tmp_path: Path) -> None:
    whole, path = packed(COLOUR), tmp_path / "a.png"
    for _ in range(300):
        data = bytearray(whole)
        data[RNG.integers(len(data))] ^= 1 << RNG.integers(8)
        path.write_bytes(data)
        try:
            with Image.open(path, formats=FORMATS) as image:
                wanted = np.asarray(image.convert("RGB"))
        except Exception:  # Pillow raises anything
            with pytest.raises(UnreadableImage):
                decode_image(path)
            continue

        assert np.array_equal(np.moveaxis(decode_image(path), 0, -1), wanted)
