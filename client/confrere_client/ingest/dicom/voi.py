"""How a DICOM file wants its grey values shown: its VOI window or table. PS3.3 C.11.2."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from confrere_client.ingest.dicom.pixels import MEASURED, is_turned, rescale, top_of
from confrere_client.ingest.dicom.values import holds, items, numbers, text, whole
from confrere_client.ingest.reader import Voi
from confrere_client.ingest.shaping.voi import FUNCTIONS, LEAST_WIDTH

ENTRIES = 1 << 16
"""Of a table; its header says 0 for as many."""


def voi_of(
    ds: Any, modality: str, index: int = 0, scale: tuple[float, float] | None = None
) -> Voi | None:
    """Return the table or window of frame *index*, for pixels of `in_unit`; the first of several.

    None where there is none, where it is malformed, in colour, and for measures, which are not
    scaled by it. *scale*: slope and intercept of the frame; None takes the file's own.
    """
    grey = text(ds, "PhotometricInterpretation").startswith("MONOCHROME")
    if modality in MEASURED or not grey:
        return None
    found = _table(ds) or _window(_group(ds, index))
    if found is None or not is_turned(ds, modality):
        return found
    mirror = _mirror(ds, scale or rescale(ds))
    return None if mirror is None else replace(found, mirror=mirror)


def _group(ds: Any, index: int) -> Any:
    """Return where a frame's window stands: in the file, or in its or the shared group."""
    if holds(ds, "WindowCenter"):
        return ds
    own = items(ds, "PerFrameFunctionalGroupsSequence")[index : index + 1]
    for item in (*own, *items(ds, "SharedFunctionalGroupsSequence")[:1]):
        for group in items(item, "FrameVOILUTSequence")[:1]:
            return group
    return ds


def _window(group: Any) -> Voi | None:
    centre, width = numbers(group, "WindowCenter"), numbers(group, "WindowWidth")
    function = text(group, "VOILUTFunction").upper() or "LINEAR"
    if not centre or not width or function not in FUNCTIONS or width[0] <= LEAST_WIDTH[function]:
        return None
    return Voi(centre=centre[0], width=width[0], function=function)


def _table(ds: Any) -> Voi | None:
    for item in items(ds, "VOILUTSequence")[:1]:
        described = numbers(item, "LUTDescriptor", 3)
        if described is None:
            return None
        first = int(described[1])
        below = whole(ds, "PixelRepresentation") == 1 or rescale(ds)[1] < 0
        if below and first > ENTRIES // 2:  # read as if it had no sign
            first -= ENTRIES
        entries = _entries(ds, item, int(described[0]) or ENTRIES)
        if len(set(entries)) > 1:
            return Voi(table=tuple(entries), first=first)
    return None


def _entries(ds: Any, item: Any, count: int) -> Sequence[int]:
    """Return the values of a table; none where they are fewer than it says."""
    try:
        held = item.get("LUTData")
    except Exception:  # of a broken table pydicom raises anything
        return ()
    if not isinstance(held, bytes):
        found = np.atleast_1d(np.asarray(() if held is None else held))
        return [] if len(found) < count else found[:count].astype(np.int64).tolist()
    order = ">" if ds.original_encoding[1] is False else "<"
    dtype = np.dtype("u1" if len(held) < 2 * count else f"{order}u2")  # some take a byte for each
    if not 0 < count <= len(held) // dtype.itemsize:
        return ()
    plain: list[int] = np.frombuffer(held, dtype, count).tolist()
    return plain


def _mirror(ds: Any, scale: tuple[float, float]) -> float | None:
    """Return what a turned pixel and its former value add up to; None where only pixels tell."""
    if holds(ds, "ModalityLUTSequence") or not holds(ds, "PixelData"):
        return None
    signed = whole(ds, "PixelRepresentation") == 1
    top = top_of(ds, whole(ds, "BitsAllocated", 16), signed=signed)
    return scale[0] * top + 2 * scale[1]
