"""One site's part of a set of images."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.data.images import Images


@dataclass(frozen=True)
class Subset:
    """Some rows of *images*, numbered anew from 0."""

    images: Images
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.rows)

    def batch(self, positions: NDArray[np.int64]) -> Tensor:
        """Return stored pixels, uint8 or uint16, shape BC[Z]YX."""
        return self.images.batch(self.rows[positions])

    def known(self, kind: str, positions: NDArray[np.int64]) -> Tensor:
        """Return what is known of images, (B, ...)."""
        return self.images.known(kind, self.rows[positions])

    def cut(self, positions: NDArray[np.int64], generator: torch.Generator) -> "Subset":
        """Return them as one step sees *positions*: see ``Images.cut``."""
        part = self.images.cut(self.rows[positions], generator)
        return self if part is self.images else Subset(part, self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names that labels number."""
        return self.images.catalog.classes
