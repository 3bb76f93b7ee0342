"""Where tissue lies on a slide: a mask on a thumbnail, and the tiles of a grid that it covers.

Shapes: Y X pixels of the thumbnail, 3 colours last as slide libraries give them.
"""

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.shaping.foreground import otsu

FAINTEST = 20.0
"""A slide on which nothing stands out by more grey levels is empty: Otsu would split its noise."""

PALE = 0.15
"""Part of the range between glass and the darkest stain that pale tissue reaches. Otsu alone parts
dark stain from pale tissue where there is much of both, and what is cut away is lost."""


def tissue_mask(thumbnail_YX3: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what stands out from the background, white (stained) or black (fluorescence).

    On white it is what is dark in any colour, so that pale pink counts; Otsu 1979, bounded by PALE.
    """
    border = np.concatenate([thumbnail_YX3[[0, -1]].reshape(-1, 3), thumbnail_YX3[:, 0]])
    bright = float(np.median(border)) > 127
    contrast = 255 - thumbnail_YX3.min(axis=2) if bright else thumbnail_YX3.max(axis=2)
    glass, most = float(np.median(255 - border.min(1) if bright else border.max(1))), contrast.max()
    pale = glass + PALE * (float(most) - glass)
    threshold = max(FAINTEST, min(otsu(contrast.astype(np.float32)), pale))
    found: NDArray[np.bool_] = contrast > threshold
    return found


def tissue_cells(
    mask_YX: NDArray[np.bool_], rows: int, columns: int, least: float
) -> list[tuple[int, int]]:
    """Return the cells of a grid of which tissue covers *least* or more, row by row."""
    height, width = mask_YX.shape
    tops = np.linspace(0, height, rows + 1)
    lefts = np.linspace(0, width, columns + 1)
    summed = np.zeros((height + 1, width + 1))
    summed[1:, 1:] = mask_YX.cumsum(0).cumsum(1)
    low_y, high_y = np.floor(tops[:-1]).astype(int), np.ceil(tops[1:]).astype(int)
    low_x, high_x = np.floor(lefts[:-1]).astype(int), np.ceil(lefts[1:]).astype(int)
    inside = (
        summed[np.ix_(high_y, high_x)]
        - summed[np.ix_(low_y, high_x)]
        - summed[np.ix_(high_y, low_x)]
        + summed[np.ix_(low_y, low_x)]
    )
    areas = np.outer(high_y - low_y, high_x - low_x)
    return [(int(row), int(column)) for row, column in np.argwhere(inside >= least * areas)]


def evenly(cells: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most *most* cells, spread over all of them."""
    if len(cells) <= most:
        return cells
    chosen = np.linspace(0, len(cells) - 1, most).round().astype(int)
    return [cells[at] for at in chosen]
