"""What a method wants to know of images beside their pixels: labels, and targets computed once.

Shapes: B images, C channels, [Z] Y X voxels.
"""

import os
import sys
import tempfile
import weakref
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_common.errors import DataError
from confrere_common.method import Method
from confrere_common.parts.labels import numbered


class Pixels(Protocol):
    """Stored images that give a batch by position."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, positions: NDArray[np.int64]) -> Tensor:
        """Return stored pixels, uint8 or uint16, shape BC[Z]YX."""


@runtime_checkable
class Annotated(Pixels, Protocol):
    """Stored images of which more is known."""

    def known(self, kind: str, positions: NDArray[np.int64]) -> Tensor:
        """Return *kind* of images, as ``KNOWN`` has it, (B, ...); DataError where there is none."""


@runtime_checkable
class Classed(Annotated, Protocol):
    """Stored images that know what their classes are called."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names that labels number."""


@runtime_checkable
class Cuttable(Pixels, Protocol):
    """Stored images of which a step may see a part."""

    def cut(self, positions: NDArray[np.int64], generator: torch.Generator) -> "Pixels":
        """Return them as one step sees *positions*, asked for in that order; else themselves."""


@runtime_checkable
class Weighed(Pixels, Protocol):
    """Stored images of which some are to be drawn more often than others."""

    @property
    def chances(self) -> NDArray[np.float64] | None:
        """Return how likely each is to be drawn, summing to 1; None where all are alike."""


@dataclass(kw_only=True)
class Facts:
    """Looks up what is known, and keeps what was computed, for each set of images apart."""

    _kept: dict[int, "_Targets"] = field(default_factory=dict)

    def of(
        self,
        kind: str,
        images: Pixels,
        positions: NDArray[np.int64],
        model: Method,
        *,
        passing: bool = False,
    ) -> Tensor:
        """Return *kind* of images, (B, ...), on the CPU; DataError where it is not known.

        Of a *passing* part, which no step will see again, nothing is kept.
        """
        if kind == "target" and passing:
            return torch.stack([model.target(one).cpu() for one in images.batch(positions)])
        if kind == "target":
            return self._targets(images).batch(positions, images, model)
        if not isinstance(images, Annotated):
            raise DataError(
                f"the method needs a {kind} with every image, and these have none: choose a "
                "method that learns without, or a source that knows it."
            )
        found = images.known(kind, positions)
        if kind == "label" and model.class_names and isinstance(images, Classed):
            return numbered(found, images.classes, model.class_names)
        return found

    def _targets(self, images: Pixels) -> "_Targets":
        place = id(images)
        if place not in self._kept:
            self._kept[place] = _Targets()
            weakref.finalize(images, self._kept.pop, place, None)
        return self._kept[place]


class _Targets:
    """One target an image, in a file without a name: as large as the images, and no memory.

    It lies in the temporary folder (TMPDIR, else /tmp), whole from the first target on: OSError
    when that folder is too full, where a hole that could not be filled later would kill the
    process.
    """

    def __init__(self) -> None:
        self.done: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.rows: Any = None

    def batch(self, positions: NDArray[np.int64], images: Pixels, model: Method) -> Tensor:
        for position in positions:
            if not (len(self.done) and self.done[position]):
                self._compute(int(position), images, model)
        return torch.from_numpy(np.asarray(self.rows)[positions])

    def _compute(self, position: int, images: Pixels, model: Method) -> None:
        stored_CZYX = images.batch(np.array([position]))[0]
        found = model.target(stored_CZYX).cpu().numpy()
        if self.rows is None:
            shape = (len(images), *found.shape)
            with tempfile.TemporaryFile() as file:
                _reserve(file.fileno(), len(images) * found.nbytes)
                self.rows = np.memmap(file, found.dtype, "w+", shape=shape)
            self.done = np.zeros(len(images), np.bool_)
        self.rows[position] = found
        self.done[position] = True


def _reserve(descriptor: int, size: int) -> None:
    """Take so many bytes of the disk for a file, where the system can; OSError if it is full."""
    if sys.platform == "linux" and size > 0:
        os.posix_fallocate(descriptor, 0, size)
