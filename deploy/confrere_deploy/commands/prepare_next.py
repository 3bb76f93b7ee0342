"""What to write into a run, now that a data set is there: lines that a run takes as they are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

AUGMENTED: Mapping[str, str] = {
    "ct": "ct", "mr": "mri", "cr": "cxr", "dx": "cxr", "xc": "dermatology", "sm": "histology",
    "gm": "microscopy", "cxr": "cxr", "mri": "mri", "dermatology": "dermatology",
    "histology": "histology", "microscopy": "microscopy",
}  # fmt: skip
"""What an exam calls itself -> whose views suit it (``augment.modality``)."""

NOBODY_SAYS = "not said"
LEAST = 3
"""Patients that a simulation of two sites needs: one to test on, one to train on at each."""


@dataclass(kw_only=True)
class Part:
    """What can be trained on together: the pictures, or the volumes."""

    kinds: "Counter[str]" = field(default_factory=Counter)
    patients: set[str] = field(default_factory=set)
    """No more than are needed."""

    sited: bool = True
    """Whether all say from which acquisition site they are."""


def next_steps(out: Path) -> Iterator[str]:
    """Yield lines: for pictures and for volumes the part of a run, and how the data set is lent."""
    found = _parts(out)
    both = len(found) > 1
    enough = {dims: part for dims, part in found.items() if len(part.patients) >= LEAST}
    for dims in sorted(found.keys() - enough.keys()):
        what = {2: "Pictures", 3: "Volumes"}[dims]
        yield f"{what} of fewer than {LEAST} patients are too few to train on alone."
    if enough:
        yield "Next, in a run" + (" (of volumes or of pictures, not both):" if both else ":")
    for number, (dims, part) in enumerate(sorted(enough.items(), reverse=True)):
        if number:
            yield "or:"
        yield from _lines(out, dims if both else None, part)
    choice = " --set dims=3 (or 2)" if both else ""
    yield f"or lend it to federations: confrere client data add NAME {quote(str(out))}{choice}"


def _parts(out: Path) -> dict[int, Part]:
    """Return axes -> what there is of such exams, copies left out as a run does."""
    from confrere_client.ingest.judging.judge import DUPLICATE
    from confrere_client.ingest.keeping.dataset import open_dataset

    found: dict[int, Part] = {}
    columns = ["dims", "tag_modality", "flags", "patient", "site"]
    for row in open_dataset(out, str(out)).rows(columns):
        if DUPLICATE in row["flags"]:
            continue
        part = found.setdefault(row["dims"], Part())
        part.kinds[row["tag_modality"] or NOBODY_SAYS] += 1
        part.sited = part.sited and bool(row["site"])
        if len(part.patients) < LEAST:
            part.patients.add(row["patient"])
    return found


def _lines(out: Path, dims: int | None, part: Part) -> Iterator[str]:
    data: dict[str, Any] = {"source": {"name": "prepared", "path": str(out.absolute())}}
    if dims:
        data["source"]["dims"] = dims
    if not part.sited:  # else each acquisition site is one of the simulation's
        data["split"] = {"name": "iid", "sites": 2}
    told = ", ".join(f"{count} {kind}" for kind, count in part.kinds.most_common())
    yield f"  data: {_flow(data)}  # {told}"
    most = part.kinds.most_common(1)[0][0]
    if most in AUGMENTED:
        yield f"  augment: {_flow({'modality': AUGMENTED[most]})}"
    if len(part.kinds) > 1 and most != NOBODY_SAYS:
        yield f"  # of one kind alone: add modality: [{most}] to the source"


def _flow(value: Mapping[str, Any]) -> str:
    """Return YAML on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20
    ).strip()
