"""What a data set holds, counted, for the hospital itself.

Only what stands under ``shared`` may be seen outside, once the hospital lets a run describe its
data: see ``sharing``.
"""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.ingest.judging.judge import Judgement
from confrere_client.ingest.judging.sharing import Part
from confrere_client.ingest.judging.stains import Stains
from confrere_client.ingest.keeping.keys import number_of
from confrere_client.ingest.working.facts import BINS

VERSION = 2
UNSORTED = 4096
OTHER = "not said"
CELLS = (
    "modality", "vendor", "spacing", "size", "label", "body_part", "dims", "site", "split",
    "photometric", "transfer_syntax",
)  # fmt: skip
NAMED_AT_MOST = 60
"""Different values of one kind that a report lists."""

Summary = dict[str, Any]


class Patients:
    """Numbers of patients, each once: eight bytes each, and a few thousand yet to be sorted in."""

    def __init__(self) -> None:
        self._sorted: NDArray[np.int64] = np.empty(0, np.int64)
        self._new = array("q")

    def add(self, patient: int) -> None:
        """Note one."""
        self._new.append(patient)
        if len(self._new) > max(UNSORTED, len(self._sorted)):
            self.all()

    def all(self) -> NDArray[np.int64]:
        """Return them in order."""
        self._sorted = np.union1d(self._sorted, np.array(self._new, np.int64))
        self._new = array("q")
        return self._sorted

    def __len__(self) -> int:
        return len(self.all())


class Tally:
    """Counts rows of the catalog as they pass."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Patients]] = {name: defaultdict(Patients) for name in CELLS}
        self.exams: dict[str, Counter[str]] = defaultdict(Counter)
        self.patients = Patients()
        self.warnings: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.box_faults: Counter[str] = Counter()
        self.stains, self.stained = Stains(), Patients()
        self.light: dict[str, Any] = defaultdict(lambda: np.zeros(BINS, np.int64))
        self.unknown = self.masked = self.boxed = self.nbytes = 0

    def watching(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield *rows* as they are, and count them."""
        for row in rows:
            self._count(row)
            yield row

    def _count(self, row: Mapping[str, Any]) -> None:
        patient = number_of(row["patient"])
        self.patients.add(patient)
        for name, value in _values(row).items():
            self.exams[name][value] += 1
            self.cells[name][value].add(patient)
        self.warnings.update(row["warnings"])
        self.flags.update(row["flags"])
        record = json.loads(row["preprocessing"])
        self.made[_scale(record)] += 1
        if "stain" in record:
            self.stains.add(record["stain"])
            self.stained.add(patient)
        self.light[row["tag_modality"] or OTHER] += np.asarray(row["histogram"])
        self.unknown += not row["patient_known"]
        self.masked += row.get("mask") is not None
        self.boxed += bool(row.get("boxes"))
        self.nbytes += row["nbytes"]


def summary_of(
    tally: Tally, judgement: Judgement, skips: Mapping[str, int], shared: list[Part]
) -> Summary:
    """Return the content of report.json; *shared* is what ``sharing.would_tell`` returns."""
    return {
        "version": VERSION,
        "exams": sum(tally.exams["dims"].values()),
        "patients": len(tally.patients),
        "exams_of_unknown_patients": tally.unknown,
        "exams_with_masks": tally.masked,
        "exams_with_boxes": tally.boxed,
        "box_faults": dict(tally.box_faults.most_common()),
        "pixel_bytes": tally.nbytes,
        "tables": {name: _table(tally.exams[name], its) for name, its in tally.cells.items()},
        "brightness": {name: counts.tolist() for name, counts in sorted(tally.light.items())},
        "preprocessing": dict(tally.made.most_common()),
        "stain": _stain(tally),
        "warnings": dict(tally.warnings.most_common()),
        "flags": dict(tally.flags.most_common()),
        "duplicate_groups": judgement.duplicate_groups,
        "near_duplicate_groups": judgement.near_groups,
        "groups_across_patients": judgement.across_patients,
        "skipped": dict(sorted(skips.items(), key=lambda pair: -pair[1])),
        "shared": shared,
    }


def _stain(tally: Tally) -> dict[str, Any]:
    found = tally.stains.mean()
    return {**found, "patients": len(tally.stained)} if found else {}


def _values(row: Mapping[str, Any]) -> dict[str, str]:
    """Return an exam's place in every table."""
    return {
        "modality": row["tag_modality"] or OTHER,
        "vendor": row["tag_vendor"] or OTHER,
        "body_part": row["tag_body_part"] or OTHER,
        "photometric": row["tag_photometric"] or OTHER,
        "transfer_syntax": row["tag_transfer_syntax"] or OTHER,
        "spacing": spacing_name(row["spacing_mm"]),
        "size": " x ".join(str(side) for side in row["shape"][1:]),
        "dims": f"{row['dims']}-D",
        "label": row["label"] or OTHER,
        "site": row["site"] or OTHER,
        "split": row["split"] or OTHER,
    }


def spacing_name(spacing_mm: Iterable[float]) -> str:
    """Return a spacing in two digits, so that equal scanners fall together.

    >>> spacing_name([5.0, 0.70312, 0.70312])
    '5 x 0.7 x 0.7 mm'
    """
    told = " x ".join(f"{side:.2g}" for side in spacing_mm)
    return f"{told} mm" if told else OTHER


def _scale(record: Mapping[str, Any]) -> str:
    """Return how the exam's levels were made, without its own figures."""
    scale = record.get("scale", {})
    windows = ", ".join(scale.get("windows", ()))
    kind = f"{scale.get('kind', OTHER)}{f' ({windows})' if windows else ''}"
    return f"{record.get('modality') or OTHER}: {kind}{', cropped' if 'crop' in record else ''}"


def _table(exams: Mapping[str, int], patients: Mapping[str, Patients]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"value": value, "exams": count, "patients": len(patients[value])}
        for value, count in sorted(exams.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    rest = found[NAMED_AT_MOST:]
    if not rest:
        return found
    people = len(np.unique(np.concatenate([patients[cell["value"]].all() for cell in rest])))
    others = {"value": "others", "exams": sum(c["exams"] for c in rest), "patients": people}
    return [*found[:NAMED_AT_MOST], others]
