"""The report of a data set for its data manager: report.html and report.json, beside the catalog.

It holds thumbnails and stays at the hospital; it holds no name. Its last part is what a coordinator
would be told.
"""

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from confrere_client.ingest.judging.naming import FREE
from confrere_client.ingest.judging.sharing import readable
from confrere_client.ingest.keeping.dataset import Dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Shards, disk
from confrere_common.storage import atomic_write

JSON, HTML = "report.json", "report.html"
THUMBNAILS = 48
THUMBNAIL_PX = 96


class Shown:
    """The exams of which the page shows pictures: of each modality the first."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Mapping[str, Any]]] = {}

    def watching(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield *rows* as they are, and remember some; keys are hashes: the first are as drawn."""
        for row in rows:
            some = self.rows.setdefault(row["tag_modality"] or "?", [])
            if len(some) < THUMBNAILS:
                some.append(row)
            yield row


def write_report(dataset: Dataset, summary: Mapping[str, Any], shown: Shown) -> None:
    """Put both forms of the report into the data set's folder."""
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    page = page_of(summary, list(_thumbnails(dataset, shown)))
    with disk():
        atomic_write(dataset.folder / JSON, text.encode())
        atomic_write(dataset.folder / HTML, page.encode())


def page_of(summary: Mapping[str, Any], thumbnails: list[dict[str, str]]) -> str:
    """Return the page; nothing in it is fetched from elsewhere."""
    template = Path(__file__).parent / "templates" / "dataset.html.jinja"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template.read_text()).render(
        **summary, thumbnails=thumbnails, colours=_COLOURS, free=FREE, readable=readable
    )


_COLOURS = ("#1b6ca8", "#c4622d", "#3f7d58", "#8e4585", "#6b6b6b")


def _thumbnails(dataset: Dataset, shown: Shown) -> Iterator[dict[str, str]]:
    """Yield small pictures of exams, evenly spread over the modalities, as data URIs."""
    shards = Shards(dataset.folder / FOLDER)
    for modality, rows in sorted(shown.rows.items()):
        for row in rows[: max(2, THUMBNAILS // len(shown.rows))]:
            image = shards.image(place_of(row), tuple(row["shape"]), row["dtype"])
            told = ", ".join([modality, *row["flags"], row["key"][:8]])
            yield {"uri": _uri(image), "told": told}


def _uri(image: NDArray[Any]) -> str:
    """Return a picture, or a volume's middle slice, as a PNG in a data URI."""
    plane = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    plane = plane[:3] if plane.shape[0] == 3 else plane[:1]
    levels = (plane >> (0 if plane.dtype == np.uint8 else 8)).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
