"""A source of images in memory, that counts how often they are decoded."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images, images_of
from confrere_client.source import Record, Source, UnreadableImage
from confrere_common.section import section

Array = NDArray[Any]


class Shelf(Source):
    """Images in memory, and a count of how often they were decoded."""

    @section
    class Config:
        """Nothing to set."""

    def __init__(self, images: Sequence[Array | str]) -> None:
        super().__init__(self.Config(), Path())
        self.images = images
        self.decoded = 0
        self._lock = threading.Lock()

    def records(self) -> list[Record]:
        return [
            Record(name=f"n{index}", decode=partial(self._decode, image), patient=f"p{index}")
            for index, image in enumerate(self.images)
        ]

    def fingerprint(self) -> Iterator[bytes]:
        for image in self.images:
            yield image.encode() if isinstance(image, str) else image.tobytes()

    def _decode(self, image: Array | str) -> Array:
        with self._lock:
            self.decoded += 1
        if isinstance(image, str):
            raise UnreadableImage(image)
        return image


class Mapped(Shelf):
    """Images that a source has mapped already, some with a mask."""

    def __init__(
        self, images: Sequence[Array | str], masks: Sequence[Array | None] | None = None
    ) -> None:
        super().__init__(images)
        self.masks = masks or [None] * len(images)

    def records(self) -> list[Record]:
        return [
            Record(
                name=record.name, patient=record.patient, decode=record.decode, mapped=True,
                spacing_mm=(2.0, 1.0, 1.0), mask=None if mask is None else lambda m=mask: m,
            )
            for record, mask in zip(super().records(), self.masks, strict=True)
        ]  # fmt: skip


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def opened(source: Source, cache_dir: Path, **knobs: Any) -> Images:
    return images_of(source, image_px=8, cache_dir=cache_dir, **knobs)


def only_home(cache_dir: Path) -> Path:
    (home,) = cache_dir.iterdir()
    return home
