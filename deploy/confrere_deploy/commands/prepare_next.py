"""What to write into a run, now that a data set is there: lines that a run takes as they are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

AUGMENTED: Mapping[str, str] = {
    "ct": "ct", "mr": "mri", "cr": "cxr", "dx": "cxr", "xc": "dermatology", "sm": "histology",
    "gm": "microscopy", "cxr": "cxr", "mri": "mri", "dermatology": "dermatology",
    "histology": "histology", "microscopy": "microscopy",
}  # fmt: skip
"""What an exam calls itself -> whose views suit it (``augment.modality``)."""

NOBODY_SAYS = "not said"


def next_steps(out: Path) -> Iterator[str]:
    """Yield lines: for pictures and for volumes the part of a run, and how the data set is lent."""
    found = _kinds(out)
    both = len(found) > 1
    yield "Next, in a run" + (" (it trains volumes or pictures, not both):" if both else ":")
    for number, (dims, kinds) in enumerate(sorted(found.items(), reverse=True)):
        if number:
            yield "or:"
        yield from _part_of_run(out, dims if both else None, kinds)
    choice = " --set dims=3 (or 2)" if both else ""
    yield f"or lend it to federations: confrere client data add NAME {out}{choice}"


def _kinds(out: Path) -> dict[int, "Counter[str]"]:
    """Return axes -> how many exams there are of each kind, copies left out as a run does."""
    from confrere_client.ingest.judging.judge import DUPLICATE
    from confrere_client.ingest.keeping.dataset import open_dataset

    found: dict[int, Counter[str]] = {}
    for row in open_dataset(out, str(out)).rows(["dims", "tag_modality", "flags"]):
        if DUPLICATE not in row["flags"]:
            kind = row["tag_modality"] or NOBODY_SAYS
            found.setdefault(row["dims"], Counter())[kind] += 1
    return found


def _part_of_run(out: Path, dims: int | None, kinds: "Counter[str]") -> Iterator[str]:
    source: dict[str, Any] = {"name": "prepared", "path": str(out.absolute())}
    if dims:
        source["dims"] = dims
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    yield f"  data: {_flow({'source': source})}  # {told}"
    most = kinds.most_common(1)[0][0]
    if most in AUGMENTED:
        yield f"  augment: {_flow({'modality': AUGMENTED[most]})}"
    if len(kinds) > 1 and most != NOBODY_SAYS:
        yield f"  # of one kind alone: add modality: [{most}] to the source"


def _flow(value: Mapping[str, Any]) -> str:
    """Return YAML on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20
    ).strip()
