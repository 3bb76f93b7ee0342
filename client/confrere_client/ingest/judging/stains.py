"""How the tiles of a data set's slides are stained, as one figure of all: means, and of no tile."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIGURES = ("density_mean", "density_spread", "haematoxylin", "eosin")
DIGITS = 3


class Stains:
    """Adds up what ``shaping.stain`` measured of each tile."""

    def __init__(self) -> None:
        self.tiles = self.stained = 0
        self._tissue = 0.0
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, stain: Mapping[str, Any]) -> None:
        """Count a tile; one without tissue has no other figure."""
        self.tiles += 1
        self._tissue += stain["tissue"]
        if FIGURES[0] not in stain:
            return
        self.stained += 1
        for name in FIGURES:
            self._sums[name] = self._sums.get(name, np.zeros(())) + np.asarray(stain[name])

    def mean(self) -> dict[str, Any]:
        """Return how many tiles there are and their mean figures; nothing where there is none."""
        if not self.tiles:
            return {}
        means = {
            name: (total / self.stained).round(DIGITS).tolist()
            for name, total in self._sums.items()
        }
        return {"tiles": self.tiles, "tissue": round(self._tissue / self.tiles, DIGITS), **means}
