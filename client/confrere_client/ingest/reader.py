"""The contract of a reader: files of one kind, recognised by content, become exams without names.

Reading goes in two steps, since an exam may be hundreds of files and a file may hold many exams:
``index`` looks at a file's header alone and says which parts of exams it holds; parts of one
``group`` (a DICOM series) are then read together by ``load``, which alone touches pixels.

Shapes: C channels, [Z] Y X voxels (Z only in 3-D).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import confrere_client.ingest.readers
from confrere_common.errors import ConfrereError
from confrere_common.family import Family

HEAD_BYTES = 4096
"""How much of a file's start ``claims`` is shown."""

TECHNICAL = (
    "modality", "vendor", "model", "kernel", "slice_thickness_mm", "body_part", "field_strength_t",
    "kvp", "photometric", "view", "laterality", "orientation", "unit", "transfer_syntax",
)  # fmt: skip
"""The only tags of an exam that enter a data set; what is not listed here cannot."""


class Skipped(ConfrereError):  # noqa: N818  (it is no error of the whole)
    """A file, or a part of it, is not taken; ``kind`` groups reports, the text names no patient."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        """A short fixed phrase such as 'truncated', 'no pixel data', 'structured report'."""

        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a header says of one file's share in an exam."""

    file: Path
    group: str
    """Parts of equal group are one exam; unique for exams of a single file."""

    order: tuple[float, ...] = ()
    """Sorts parts within their group (slice position, then instance number)."""

    patient: str = ""
    """The patient as the file writes it; it is only ever used to make the HMAC key."""

    names: tuple[str, ...] = ()
    """Every identifier in the header (names, ids, dates, accession numbers): what must be found in
    no byte that is produced."""

    modality: str = ""
    """Lower case: ct, mr, cr, dx, mg, us, pt, sm, sc, ot; empty when the file does not say."""

    nbytes: int = 0
    """Bytes that the decoded pixels will take, from the header: refused before they are allocated
    when over the limit."""

    index: int = 0
    """Which exam of a file that holds several."""

    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the reader wants to find again in ``load``; it never enters the data set."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A volume as its file has it, and how it was turned."""

    voxels_CZYX: NDArray[Any]
    spacing_mm: tuple[float, ...]
    """Z Y X, as the voxels."""

    codes: NDArray[np.int64]
    """Along which patient axis each voxel axis was taken to run: ``orient.axis_codes``."""

    oriented: bool
    """Whether the file says so; else it is what the format's readers assume."""


@dataclass(frozen=True, kw_only=True)
class Turned:
    """How a picture lies beside what its file holds."""

    size: tuple[int, int]
    """Y X of the picture in the file."""

    corners: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the file's corners (0 1 above, 2 3 below) came to lie where, row by row."""


@dataclass(frozen=True, kw_only=True)
class Voi:
    """Which values its file wants shown from black to white: a window, or a table of its own."""

    centre: float = 0.0
    width: float = 0.0
    """Centre and width of a window, in the unit of the file."""

    function: str = "LINEAR"
    """How values within a window rise: one of ``shaping.voi.FUNCTIONS``."""

    table: tuple[int, ...] = ()
    """What to show for each whole value from *first* on, in place of a window; () for none."""

    first: int = 0
    mirror: float | None = None
    """Where white and black were changed (MONOCHROME1): what a pixel and its former value add up
    to. It was the former that the window is for."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One image or volume with what is technically known of it, and nothing else."""

    pixels: NDArray[Any]
    """(C, Y, X) or (C, Z, Y, X): float32 in the file's own unit (HU, SUV, ...), or uint8/uint16 as
    stored where a file has no unit (photographs, slides)."""

    spacing_mm: tuple[float, ...] = ()
    """[Z] Y X; empty when unknown."""

    spacing_told: bool = True
    """False where the file says nothing of it: what stands there is what its readers assume."""

    centre_mm: tuple[float, ...] = ()
    """Where the grid's centre lies in the patient, along R A S; empty when the file does not say.
    Which way its axes run does not move it."""

    stored: Stored | None = None
    """The volume before it was turned, where files of its kind may not say how they lie."""

    source_shape: tuple[int, ...] = ()
    """Shape of what the file holds, where ``picture_px`` made the pixels fewer; empty: theirs."""

    turned: Turned | None = None
    """How a picture was turned or stretched; absent: not at all, or it was a slice of a volume."""

    tags: Mapping[str, str | float] = field(default_factory=dict)
    """Only keys of ``TECHNICAL``."""

    voi: Voi | None = None
    """How the file wants its values shown; None where it does not say, and where the values are
    measures that are scaled by what they mean (CT, MR, PET)."""

    warnings: tuple[str, ...] = ()
    """Fixed phrases: 'gap between slices', 'duplicate slice', 'gantry tilt', ..."""

    suffix: str = ""
    """Tells apart several exams of one group (a tile's place in a slide, a time point)."""

    label: str = ""
    """Class that the file itself gives the image (labels beside the images of an .npz)."""

    split: str = ""
    """'train', 'val' or 'test' where the file itself says so."""

    patient: str | None = None
    """None: that of the parts. Where one file holds exams of several patients (an .npz): that of
    this exam as the file writes it, used as theirs; '' when it is not known."""


class Reader(ABC):
    """Reads files of one kind. Built without arguments; holds no state."""

    last_resort: ClassVar[bool] = False
    """It knows many kinds, each a little: asked only where no other reader takes the file."""

    @abstractmethod
    def claims(self, head: bytes, file: Path) -> bool:
        """Say, from the first HEAD_BYTES bytes, whether this reader knows the file.

        The content decides; the name only where a format has no mark of its own (Analyze, raw).
        """

    @abstractmethod
    def index(self, file: Path) -> Sequence[Part]:
        """Return the parts that *file* holds, from its header; Skipped with a reason."""

    @abstractmethod
    def load(self, parts: Sequence[Part], options: Mapping[str, Any]) -> Iterator[Exam]:
        """Yield the exams that sorted *parts* of one group make; Skipped with a reason.

        *options*: ``microns_per_px``, ``tile_px`` for slides; ``picture_px``, the longer side that
        pictures will have anyway; readers ignore what they don't know.
        """


READERS: Family[type[Reader]] = Family("reader", confrere_client.ingest.readers)
