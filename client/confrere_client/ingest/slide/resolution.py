"""At which resolution, and how large, tiles are taken of slides."""

from collections.abc import Mapping
from typing import Any

MICRONS_PER_PX = 0.5
"""About 20 x, unless the option ``microns_per_px`` says otherwise."""

TILE_PX = 256


def resolution(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``microns_per_px`` and ``tile_px``, as given or as usual."""
    return {
        "microns_per_px": float(options.get("microns_per_px", MICRONS_PER_PX)),
        "tile_px": int(options.get("tile_px", TILE_PX)),
    }
