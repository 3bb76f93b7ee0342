"""Sample images as data that a page carries within itself.

Legend: R rows, V views, Y X pixels, C channels.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROWS_SHOWN, VIEWS_SHOWN, SIDE_SHOWN = 8, 8, 128


def cells(samples_RVYXC: NDArray[np.uint8]) -> list[list[str]]:
    """Return a data URI for each image: rows of an original and its views, made small."""
    few = samples_RVYXC[:ROWS_SHOWN, :VIEWS_SHOWN]
    return [[_data_uri(image_YXC) for image_YXC in row] for row in few]


def _data_uri(image_YXC: NDArray[np.uint8]) -> str:
    pixels = image_YXC[..., 0] if image_YXC.shape[-1] == 1 else image_YXC
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((SIDE_SHOWN, SIDE_SHOWN))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
