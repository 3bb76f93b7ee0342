"""What sites tell of their images before anything is trained: patients, counted in fixed cells.

Every measure has cells that all sites share, so nothing that leaves a site is a text of its own:
numbers of cells and counts of patients, in a layout that both sides check with the same function.
A site joins or withholds cells until none is small; what it withholds is one count, ``untold``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from confrere_common.errors import ExchangeError
from confrere_common.section import section
from confrere_common.tally import Cell

MOST_TEXT = 65_536
"""Characters of the longest description that is read; a real one has a tenth of them."""

PATIENTS_AT_MOST = 10**9

OTHER = "other"

MODALITIES = (
    "cr", "ct", "dx", "mg", "mr", "us", "xc", "sm", "gm", "pt", "nm", "op", "oct", "es", "xa", "rf",
    "sc", "ot",
)  # fmt: skip
"""Kinds of images that are told apart, as DICOM calls them; any other is 'other'."""

VENDORS = (
    "3dhistech", "agfa", "aperio", "bruker", "canon", "carestream", "elscint", "esaote", "fuji",
    "ge", "hamamatsu", "hitachi", "hologic", "kodak", "konica", "leica", "lodox", "lorad",
    "marconi", "mindray", "mirax", "philips", "picker", "planmed", "roche", "sakura", "samsung",
    "sectra", "shimadzu", "siemens", "sonoscape", "swissray", "toshiba", "trestle",
    "united imaging", "varian", "ventana", "vidar", "zeiss", "ziehm",
)  # fmt: skip
"""Makers that are told apart; any other is 'other'."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What patients are counted by: cells between numbers, or cells with names."""

    title: str
    edges: tuple[float, ...] = ()
    """Where cells begin; the last one has no end."""

    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Return how many cells there are."""
        return len(self.edges) or len(self.names)


MEASURES: Mapping[str, Measure] = {
    "images": Measure(
        title="images of a patient", edges=(1, 2, 3, 4, 5, 7, 9, 13, 17, 33, 65, 129, 257)
    ),
    "longer_px": Measure(
        title="longer side, pixels",
        edges=(
            *(0, 32, 48, 64, 96, 128, 192, 256, 320, 384),
            *(512, 640, 768, 1024, 1536, 2048, 3072, 4096),
        ),
    ),
    "shorter_share": Measure(
        title="shorter side as a share of the longer", edges=(0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    ),
    "slices": Measure(
        title="slices of a volume (a picture: 1)",
        edges=(1, 2, 9, 17, 33, 49, 65, 97, 129, 193, 257, 513),
    ),
    "spacing_mm": Measure(
        title="pixel spacing, mm",
        edges=(
            *(0, 3e-4, 6e-4, 1e-3, 5e-3, 0.02, 0.06, 0.08, 0.1, 0.12, 0.15, 0.18, 0.2, 0.25, 0.3),
            *(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2, 3, 5),
        ),
    ),
    "slice_spacing_mm": Measure(
        title="spacing of slices, mm", edges=(0, 0.3, 0.6, 0.8, 1, 1.3, 1.6, 2.1, 3.1, 4.1, 5.1, 7)
    ),
    "bits": Measure(title="bits a channel, as stored", names=("8", "16")),
    "channels": Measure(title="channels", names=("grey", "colour")),
    "mean": Measure(
        title="mean intensity, black 0 to white 1", edges=tuple(n / 16 for n in range(16))
    ),
    "contrast": Measure(
        title="standard deviation of intensity", edges=tuple(n / 32 for n in range(16))
    ),
    "modality": Measure(title="modality", names=(*MODALITIES, OTHER)),
    "vendor": Measure(title="maker of the device", names=(*VENDORS, OTHER)),
}
"""All but the labels, whose names a run brings. None has more cells than ``tally.STEPS``."""


def _differing(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("one is repeated: each must be another")
    return names


def _not_yet(epsilon: float | None) -> None:
    if epsilon is not None:
        raise ValueError(
            "differential privacy of descriptions is not built yet: leave it out, and raise "
            "min_cell where counts of few patients are a worry"
        )


@section
class Describe:
    """What a run of stage describe asks of the sites. It trains nothing and has one round."""

    min_cell: Annotated[int, Field(ge=2, le=10_000)] = 5
    """Patients below which no count leaves a site; the site's own min_cell may be larger."""

    labels: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(max_length=64),
        AfterValidator(_differing),
    ] = ()
    """Labels to be counted, as the sites write them: a site tells of no other by name. None: it is
    told only how many patients have a label."""

    duplicates: bool = False
    """Whether sites whose policy allows it also tell salted hashes of their images, so that images
    that several sites have are counted. Who holds an image learns which of them have it."""

    epsilon: Annotated[float | None, AfterValidator(_not_yet)] = None
    """Differential privacy; not built yet, so any value is refused. Counts are suppressed only."""


def measures_of(asked: Describe) -> Mapping[str, Measure]:
    """Return every measure of a run, the labels among them."""
    label = Measure(title="label", names=(*asked.labels, OTHER if asked.labels else "labelled"))
    return {**MEASURES, "label": label}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Patients by one measure."""

    cells: tuple[Cell, ...]
    """First cell, cell after the last, patients: in order, apart from one another."""

    untold: int
    """Patients without a value, or in cells that were too small to be told."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What one site tells of its images."""

    patients: int
    smallest: int
    """Patients that each count holds at least."""

    counts: Mapping[str, Counts]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        counts = {
            name: {"cells": [list(cell) for cell in told.cells], "untold": told.untold}
            for name, told in self.counts.items()
        }
        return {"patients": self.patients, "smallest": self.smallest, "counts": counts}


def description_text(told: Description, asked: Describe) -> str:
    """Return what leaves a site, as JSON; ExchangeError for what ``read_description`` refuses.

    Guarantee: what leaves is whole numbers under names that both sides have from the run; every
    count is zero or of at least *smallest* patients, and so is what is left of all of them.
    """
    text = json.dumps(told.as_dict(), separators=(",", ":"), sort_keys=True)
    read_description(text, asked)
    return text


def read_description(text: str, asked: Describe) -> Description:
    """Return the description in *text*; ExchangeError unless it is sound in every part."""
    try:
        if len(text) > MOST_TEXT:
            raise ExchangeError(f"it has {len(text)} characters; at most {MOST_TEXT} are read.")
        return _description(json.loads(text), measures_of(asked), asked.min_cell)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ExchangeError("what came is no description of this version.") from None


def _description(plain: Any, measures: Mapping[str, Measure], least: int) -> Description:
    _must_have(plain, ("patients", "smallest", "counts"))
    _must_have(plain["counts"], measures)
    patients, smallest = _whole(plain["patients"]), _whole(plain["smallest"])
    if not least <= smallest <= patients:
        raise ExchangeError(
            f"it is of {patients} patients in cells of {smallest} or more; the run asks for "
            f"{least} or more in each."
        )
    return Description(
        patients=patients,
        smallest=smallest,
        counts={
            name: _counts(plain["counts"][name], measure, patients, smallest)
            for name, measure in measures.items()
        },
    )


def _counts(plain: Any, measure: Measure, patients: int, smallest: int) -> Counts:
    _must_have(plain, ("cells", "untold"))
    cells, untold = _cells(plain["cells"], measure), _whole(plain["untold"])
    every = [*(count for _, _, count in cells), *([untold] if untold else [])]
    if sum(every) != patients:
        raise ExchangeError(f"its counts of '{measure.title}' do not add up to its patients.")
    if min(every) < smallest:
        raise ExchangeError(f"a count of '{measure.title}' is of fewer than {smallest} patients.")
    return Counts(cells=cells, untold=untold)


def _cells(rows: Any, measure: Measure) -> tuple[Cell, ...]:
    if not isinstance(rows, Sequence) or len(rows) > measure.size:
        raise ValueError
    cells: list[Cell] = []
    reached = 0
    for row in rows:
        first, after, count = map(_whole, row)
        if not reached <= first < after <= measure.size or (measure.names and after - first > 1):
            raise ValueError
        cells.append((first, after, count))
        reached = after
    return tuple(cells)


def _must_have(plain: Any, names: Sequence[str] | Mapping[str, Any]) -> None:
    if not isinstance(plain, dict) or sorted(plain) != sorted(names):
        raise TypeError


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= PATIENTS_AT_MOST:
        raise TypeError
    return value
