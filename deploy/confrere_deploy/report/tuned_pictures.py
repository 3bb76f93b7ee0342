"""The page of pictures beside a report: images of patients, which must stay where they are.

Shapes: Y X pixels, C = 3 channels.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.finetune.pictures.gallery import Gallery
from confrere_common.storage import atomic_write
from confrere_deploy.report.html import environment, style

PICTURES = "pictures.html"


def write_pictures(path: Path, name: str, galleries: Mapping[str, Sequence[Gallery]]) -> None:
    """Write the page of pictures: arm -> what there is to see. It shows images of patients."""
    shown = {arm: [_shown(gallery) for gallery in some] for arm, some in galleries.items()}
    text = environment().get_template("pictures.html.jinja").render(
        name=name, style=style(), galleries=shown
    )  # fmt: skip
    atomic_write(path, text.encode())


def _shown(gallery: Gallery) -> dict[str, Any]:
    rows = [
        {
            "title": row.title,
            "cells": [{"what": what, "uri": _uri(pixels)} for what, pixels in row.cells],
        }
        for row in gallery.rows
    ]
    return {"title": gallery.title, "note": gallery.note, "rows": rows}


def _uri(pixels_YXC: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_YXC)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
