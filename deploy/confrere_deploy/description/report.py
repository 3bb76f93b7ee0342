"""The report of a description, for a real federation and a simulated one: report.json and a page.

An optional key that has no value is absent, never null.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from confrere_common.config import Run
from confrere_common.describe import Describe, Description, Measure, measures_of
from confrere_common.loading import as_dict, digest, dump
from confrere_common.section import section
from confrere_common.storage import atomic_write
from confrere_deploy.description.strips import strips
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.report.codec import plain
from confrere_deploy.report.html import environment, style
from confrere_server.description.advice import Advice, advise
from confrere_server.description.collecting import asked_of
from confrere_server.description.sharing import NOTHING, Shared, Sharing
from confrere_server.description.unlikeness import Gap, gaps, widest

DRAWN = 24
"""Sites that a drawing has room for; all are in report.json."""

CAUTION = (
    "Counts are of patients, each by one image; counts of few were joined or withheld at the "
    "sites. Distances are therefore rather too small, and no advice here was fitted to data."
)


SAME = (
    "Shared images are those whose pixels are equal, in the same size and depth. Resized, cropped "
    "or recompressed copies are not found; numbers are of images, not of patients."
)


@section
class DescribedSite:
    """What a site told."""

    patients: Annotated[int, Field(ge=1)]
    """Patients that it knows by its images."""

    smallest: Annotated[int, Field(ge=2)]
    """Patients that each of its counts holds at least."""

    counts: dict[str, Any]
    """Measure -> ``cells`` (first cell, cell after the last, patients) and ``untold``."""


@section
class DescribedReport:
    """Everything that report.html shows."""

    schema: Literal[1] = 1
    """Version of these keys."""

    kind: Literal["describe"] = "describe"
    """What tells it from the report of a training."""

    name: str
    """The run's name."""

    created: AwareDatetime
    """When it was written."""

    version: str
    """Version of confrere."""

    run: dict[str, Any]
    """The full effective configuration."""

    digest: str
    """Its digest."""

    measures: dict[str, dict[str, Any]]
    """Measure -> title, and the edges or the names of its cells."""

    sites: dict[str, DescribedSite]
    """Site -> what it told."""

    refused: dict[str, str]
    """Site -> why it told nothing."""

    shared: tuple[Shared, ...]
    """How many images every two sites share, of those that took part; empty where it was not
    asked, or none did."""

    gaps: tuple[dict[str, Any], ...]
    """How far every pair of sites is apart by each measure, the farthest first."""

    advice: tuple[dict[str, str], ...]
    """What to set in a run, and the figures that say so."""

    warnings: tuple[str, ...]
    """What a reader should know before believing it."""


def described_report(
    run: Run,
    told: Mapping[str, Description],
    refused: Mapping[str, str],
    sharing: Sharing = NOTHING,
) -> DescribedReport:
    """Return all that is known of a federation's images, and what follows."""
    asked = asked_of(run)
    measures = measures_of(asked)
    found = gaps(told, measures)
    return DescribedReport(
        name=run.name,
        created=datetime.now(UTC),
        version=version("confrere"),
        run=as_dict(run),
        digest=digest(dump(run, ALL_FAMILIES)),
        measures={name: _measure(measure) for name, measure in measures.items()},
        sites={site: DescribedSite(**one.as_dict()) for site, one in sorted(told.items())},
        refused=dict(sorted(refused.items())),
        shared=sharing.pairs,
        gaps=tuple({**asdict(gap), "marked": gap.marked} for gap in found),
        advice=tuple(asdict(advice) for advice in advise(told, asked, sharing)),
        warnings=(
            CAUTION,
            *(f"'{site}' told nothing: {why}" for site, why in refused.items()),
            *_of_sharing(asked, told, sharing),
        ),
    )


def _of_sharing(
    asked: Describe, told: Mapping[str, Description], sharing: Sharing
) -> Iterator[str]:
    """Yield what a reader should know of the numbers of shared images."""
    if not asked.duplicates:
        return
    if aside := ", ".join(f"'{site}'" for site in sorted({*told} - {*sharing.sites})):
        yield f"Shared images: {aside} told no hashes, as its policy decides: not compared."
    if sharing.pairs:
        yield SAME


def write_described_report(
    out: Path,
    run: Run,
    told: Mapping[str, Description],
    refused: Mapping[str, str],
    sharing: Sharing = NOTHING,
) -> DescribedReport:
    """Put report.json and report.html in the folder *out*, each whole or not at all."""
    report = described_report(run, told, refused, sharing)
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(out / "report.json", text.encode())
    measures = measures_of(asked_of(run))
    drawn = dict(sorted(told.items())[:DRAWN])
    page = environment().get_template("described.html.jinja")
    html = page.render(
        report=report,
        style=style(),
        advice=[Advice(**one) for one in report.advice],
        widest=_widest(widest(gaps(told, measures)), measures),
        drawings=strips(drawn, measures),
        shared=_table(sharing),
        left=len(told) - len(drawn),
    )
    atomic_write(out / "report.html", html.encode())
    return report


def _widest(found: Mapping[str, Gap], measures: Mapping[str, Measure]) -> Sequence[tuple[str, Gap]]:
    return [(measures[name].title, gap) for name, gap in found.items() if gap.distance > 0]


def _table(sharing: Sharing) -> Mapping[str, Mapping[str, Shared]]:
    """Return site -> other site -> what they share, for as many as a page has room for."""
    found: dict[str, dict[str, Shared]] = {site: {} for site in sharing.sites[:DRAWN]}
    for pair in sharing.pairs:
        if pair.one in found and pair.two in found:
            found[pair.one][pair.two] = found[pair.two][pair.one] = pair
    return found if sharing.pairs else {}


def _measure(measure: Measure) -> dict[str, Any]:
    cells = {"names": list(measure.names)} if measure.names else {"edges": list(measure.edges)}
    return {"title": measure.title, **cells}
