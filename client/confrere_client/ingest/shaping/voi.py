"""Grey values as their file wants them shown: by its VOI window or table, from black to white.

By the formulas of PS3.3 C.11.2.1, not by pydicom's ``apply_voi``: that keeps places of a table in
as many bits as the table's values have, so that in one of 8 bits what lies over 255 begins anew.

Shapes: C channels, Z Y X voxels; S stands for the last two or three of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.reader import Voi

LEAST_SHOWN = 0.1
"""A window in which fewer of a picture's values lie, or that uses fewer of the greys, is none that
somebody looked at the picture with: it is passed over."""

PASSED_OVER = "its window shows nothing"
MARGIN = 1 / 512


def _linear(values: NDArray[np.float32], voi: Voi) -> NDArray[np.float32]:
    return (values - np.float32(voi.centre - 0.5)) / np.float32(voi.width - 1) + np.float32(0.5)


def _exact(values: NDArray[np.float32], voi: Voi) -> NDArray[np.float32]:
    return (values - np.float32(voi.centre)) / np.float32(voi.width) + np.float32(0.5)


def _sigmoid(values: NDArray[np.float32], voi: Voi) -> NDArray[np.float32]:
    from scipy.special import expit

    made: NDArray[np.float32] = expit((values - np.float32(voi.centre)) * np.float32(4 / voi.width))
    return made


FUNCTIONS: Mapping[str, Callable[[NDArray[np.float32], Voi], NDArray[np.float32]]] = {
    "LINEAR": _linear,
    "LINEAR_EXACT": _exact,
    "SIGMOID": _sigmoid,
}
"""How DICOM calls the ways in which grey rises within a window."""

LEAST_WIDTH: Mapping[str, float] = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}
"""A window has to be wider than this."""


def shown(image_CS: NDArray[Any], voi: Voi) -> NDArray[np.float32]:
    """Return an image of 0 (black) to 1 (white)."""
    if image_CS.dtype not in (np.uint8, np.uint16):
        return _shown(image_CS.astype(np.float32), voi)
    levels = np.arange(np.iinfo(image_CS.dtype).max + 1, dtype=np.float32)
    return np.take(_shown(levels, voi), image_CS)


def _shown(values: NDArray[np.float32], voi: Voi) -> NDArray[np.float32]:
    if voi.mirror is not None:
        values = np.float32(voi.mirror) - values
    made = _looked_up(values, voi) if voi.table else FUNCTIONS[voi.function](values, voi)
    np.clip(made, 0, 1, out=made)
    return made if voi.mirror is None else np.subtract(1, made, dtype=np.float32)


def _looked_up(values: NDArray[np.float32], voi: Voi) -> NDArray[np.float32]:
    """Return what the table has for each value; its own ends are black and white.

    They are not those of the bits that it says it has: some makers write 12 bits into 16.
    """
    table = np.asarray(voi.table, np.float32)
    table = (table - table.min()) / np.float32(np.ptp(table))
    # clipped before they are whole numbers: what is out of their range would wrap
    places = np.clip(np.rint(values) - np.float32(voi.first), 0, len(table) - 1)
    made: NDArray[np.float32] = table[places.astype(np.int64)]
    return made


def tells(voi: Voi, thin_S: NDArray[np.float32]) -> bool:
    """Say whether enough of an image's values can be told apart when it is shown so."""
    seen = shown(thin_S, voi)
    low, high = np.percentile(seen, (0.5, 99.5))
    between = ((seen > MARGIN) & (seen < 1 - MARGIN)).mean()
    return bool(between >= LEAST_SHOWN and high - low >= LEAST_SHOWN)


def record_of(voi: Voi) -> dict[str, Any]:
    """Return what is told of how an image was shown."""
    if voi.table:
        return {"kind": "file's table", "entries": len(voi.table)}
    function = voi.function.lower().replace("_", " ")
    return {
        "kind": "file's window",
        "centre": voi.centre,
        "width": voi.width,
        "function": function,
    }
