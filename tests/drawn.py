"""Images on which things are outlined and boxed, a patient each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_runs import SIDE

from confrere_client.data.boxes import Boxes
from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.masks import Masks
from confrere_client.source import Record


def mask_of(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return a mask in which each of *names* has a row of voxels, numbered from 1 as *classes*."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for row, name in enumerate(names):
        mask[row] = classes.index(name) + 1
    return mask


def drawn_images(folder: Path, drawn: Sequence[Sequence[str]], classes: Sequence[str]) -> Images:
    """Return images on which the named things are outlined and boxed, all at most once."""
    pixels = np.zeros((len(drawn), 1, SIDE, SIDE), np.uint8)
    records = [
        Record(
            name=f"i{n}", decode=lambda: pixels[0], patient=f"p{n}",
            mask=lambda names=names: mask_of(names, classes),
            boxes=lambda names=names: [(name, (1, 1, 4, 4)) for name in names],
        )
        for n, names in enumerate(drawn)
    ]  # fmt: skip
    return Images(
        pixels=pixels, catalog=catalog_of(records), skipped=(), digest="",
        masks=Masks(records=records, home=folder, shape=(SIDE, SIDE)),
        boxes=Boxes(records=records, home=folder, shape=(SIDE, SIDE)),
    )  # fmt: skip
