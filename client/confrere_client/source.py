"""The contract of a data source: it lists images with what is known of each, and decodes one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import confrere_client.sources
from confrere_common.errors import ConfrereError
from confrere_common.family import Family, Named

FACTORS = ("sex", "age", "vendor", "kernel", "slice_thickness_mm")
"""What may be known of a patient and of an acquisition."""


class UnreadableImage(ConfrereError):  # noqa: N818  (it is no error of the run)
    """One image cannot be decoded; it is skipped, counted and listed in the local report."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a source, not yet decoded."""

    name: str
    """What a report that stays at the site may call it (a relative path or an index)."""

    decode: Callable[[], NDArray[np.uint8] | NDArray[np.uint16]]
    """Return pixels as (C, Y, X) or (C, Z, Y, X); raise UnreadableImage with a short reason."""

    mapped: bool = False
    """Whether *decode* gives a view of what lies on the disk, of which only what is looked at is
    read; it is then cheap to call again. So for the mask."""

    spacing_mm: tuple[float, ...] = ()
    """Millimetres between what *decode* gives along [Z] Y X; empty where they are not known."""

    patient: str
    """Key that groups the images of one patient; the image's own name when none is known."""

    site: str = ""
    """Acquisition site, empty when unknown."""

    split: str = ""
    """'train', 'val' or 'test' when the source fixes it, else empty."""

    label: str = ""
    """Class name, empty when unlabelled."""

    boxes: Callable[[], Sequence[tuple[str, Sequence[float]]]] | None = None
    """Return the name of what is in each box, and its low and high corner along X Y [Z] in voxels
    of the image; raise UnreadableImage with a short reason. Absent where nobody drew any."""

    mask: Callable[[], NDArray[Any]] | None = None
    """Return the class of each voxel, ([Z], Y, X) as the image is, 0 being background; raise
    UnreadableImage with a short reason. Absent where nobody drew one."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the source keeps of the image itself, as ``describing.KEPT`` names it; empty where it
    must be opened to tell."""

    about: Mapping[str, str] = field(default_factory=dict)
    """What is known of patient and acquisition (``FACTORS``): figures are judged
    by it, nothing learns from it."""

    @property
    def patient_known(self) -> bool:
        """Say whether the source names the patient: an image of its own name's patient does not."""
        return self.patient != self.name


class Source(ABC):
    """Lists the images of one place. Built as ``Source(config, folder)``.

    *folder* is where relative paths start: the folder of the run's file.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any, folder: Path) -> None:
        self.config = config
        self.folder = folder

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        """Return how the images were prepared before (``common.preparation``); None: not at all."""
        return None

    @abstractmethod
    def records(self) -> Sequence[Record]:
        """List every image without decoding it; DataError when there is nothing to list."""

    @abstractmethod
    def fingerprint(self) -> Iterator[bytes]:
        """Yield bytes that change whenever an image or what is known of it changes."""


SOURCES: Family[type[Source]] = Family("source", confrere_client.sources)


def open_source(named: Named, folder: Path) -> Source:
    """Return the source that a run names."""
    make: Any = SOURCES.member(named.name)
    source: Source = make(SOURCES.configure(named), folder)
    return source
