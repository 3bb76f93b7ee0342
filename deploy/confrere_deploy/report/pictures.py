"""What a report shows that is no number: a map of the features and a few augmented images.

Legend: N images, 2 coordinates, R rows, V views, Y X pixels, C channels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confrere_common.errors import DataError

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Arrays to draw; each may be absent. DataError when they do not fit each other."""

    embedding_N2: Floats | None = None
    """A place on the map for each image; about 2,000 are plenty."""

    classes: NDArray[np.int64] | None = None
    """Index into class_names for each image of the map; -1 when it has no label."""

    class_names: tuple[str, ...] = ()
    """Names of the classes."""

    sites: NDArray[np.str_] | None = None
    """Name of the site for each image of the map."""

    projection: str = ""
    """How the features became two numbers, such as 'PCA'."""

    samples: NDArray[np.uint8] | None = None
    """Shape (R, V, Y, X, C): each row an image as read and then its views; C is 1 or 3."""

    def __post_init__(self) -> None:
        if self.embedding_N2 is not None:
            self._check_map(self.embedding_N2)
        if self.samples is not None:
            _check_samples(self.samples)

    def _check_map(self, embedding_N2: Floats) -> None:
        if embedding_N2.ndim != 2 or embedding_N2.shape[1] != 2:
            raise DataError(f"the map has shape {embedding_N2.shape}; it must be (images, 2)")
        for what, values in (("classes", self.classes), ("sites", self.sites)):
            if values is not None and values.shape != (len(embedding_N2),):
                raise DataError(
                    f"the map has {len(embedding_N2)} images but {what} has shape {values.shape}; "
                    "give one value for each image"
                )
        if self.classes is not None and self.classes.size:
            self._check_classes(int(self.classes.max()))

    def _check_classes(self, largest: int) -> None:
        if largest >= len(self.class_names):
            raise DataError(
                f"class {largest} has no name: class_names holds {len(self.class_names)}"
            )


def _check_samples(samples_RVYXC: NDArray[np.uint8]) -> None:
    fits = samples_RVYXC.ndim == 5 and samples_RVYXC.shape[4] in (1, 3)
    if not fits or samples_RVYXC.dtype != np.uint8:
        raise DataError(
            f"samples have shape {samples_RVYXC.shape} of {samples_RVYXC.dtype}; "
            "they must be uint8 (rows, views, Y, X, 1 or 3)"
        )
