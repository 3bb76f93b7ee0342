"""Descriptions as they come in from sites: checked, kept one a site, and put together."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from confrere_common.config import Run
from confrere_common.describe import MOST_TEXT, Describe, Description, read_description
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.exchange import Answer, Refusal, Update
from confrere_common.marks import MOST_MARKS_BYTES
from confrere_common.storage import atomic_write
from confrere_server.description.sharing import (
    NOTHING,
    KeepSharing,
    Marked,
    Sharing,
    counted,
    keep_shared_in,
    marked,
    sharing_of,
)
from confrere_server.store import ServerState

Keep: TypeAlias = Callable[[str, str], None]
"""``keep(site, text)`` what a site told, once it is found sound."""

FOLDER, FILE = "descriptions", "description.json"


def asked_of(run: Run) -> Describe:
    """Return what a run asks of sites; ConfigError where it describes nothing."""
    if run.stage != "describe" or run.describe is None:
        raise ConfigError([f"stage is {run.stage}: write stage: describe."])
    return run.describe


def most_told(asked: Describe) -> int:
    """Return the bytes that a site tells at most."""
    return MOST_TEXT + (MOST_MARKS_BYTES if asked.duplicates else 0)


def heard(
    answers: Iterable[Answer], asked: Describe, keep: Keep, keep_shared: KeepSharing
) -> Iterator[Answer]:
    """Yield answers as they come, keeping what is told; an unsound description is a refusal.

    Guarantee: marks of images go no further. They are counted when the last answer came, and only
    the counts are kept.
    """
    marks: dict[str, Marked] = {}
    for answer in answers:
        if isinstance(answer, Update):
            try:
                told = read_description(answer.description, asked)
                found = marked(answer, asked, told.smallest)
            except ExchangeError as fault:
                said = f"its description was left out: {fault}"
                yield Refusal(site=answer.site, round=answer.round, reason=said)
                continue
            if found is not None:
                marks[answer.site] = found
            keep(answer.site, answer.description)
            yield replace(answer, marks=b"")
        else:
            yield answer
    if asked.duplicates:
        keep_shared(counted(marks))


def heard_into(folder: Path, answers: Iterable[Answer], asked: Describe) -> Iterator[Answer]:
    """Yield answers as ``heard`` does, keeping in a run's folder what is told."""
    return heard(answers, asked, keep_in(folder), keep_shared_in(folder))


def keep_in(folder: Path) -> Keep:
    """Return what keeps descriptions in a run's folder; one that comes again takes its place."""

    def keep(site: str, text: str) -> None:
        atomic_write(folder / FOLDER / f"{site}.json", text.encode())

    return keep


def kept_in(folder: Path) -> dict[str, str]:
    """Return site -> what it told, as it is kept in a run's folder."""
    return {path.stem: path.read_text() for path in (folder / FOLDER).glob("[!.]*.json")}


def joined_sites(state: ServerState) -> list[str]:
    """Return the sites whose answers were taken."""
    return [site.site for record in state.records for site in record.sites if not site.refused]


def put_together(
    run: Run, state: ServerState, texts: Mapping[str, str]
) -> Mapping[str, Description]:
    """Return site -> what it told, of those whose answer counted."""
    asked = asked_of(run)
    return {site: read_description(texts[site], asked) for site in joined_sites(state)}


def as_json(told: Mapping[str, Description], asked: Describe, sharing: Sharing = NOTHING) -> bytes:
    """Return description.json: what was asked, each site's counts, and images that sites share."""
    plain: dict[str, Any] = {
        "asked": {"min_cell": asked.min_cell, "labels": list(asked.labels)},
        "sites": {site: one.as_dict() for site, one in sorted(told.items())},
    }
    if asked.duplicates:
        plain["shared"] = asdict(sharing)
    return json.dumps(plain, indent=1).encode()


def from_json(content: bytes) -> tuple[Mapping[str, Description], Describe]:
    """Return what ``as_json`` wrote; ExchangeError where it was changed."""
    try:
        plain: Any = json.loads(content)
        labels = tuple(plain["asked"]["labels"])
        asked = Describe(min_cell=plain["asked"]["min_cell"], labels=labels)
        sites = plain["sites"].items()
        return {s: read_description(json.dumps(one), asked) for s, one in sites}, asked
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ExchangeError(f"{FILE} is damaged: fetch it again.") from None


def shared_from_json(content: bytes) -> Sharing:
    """Return what ``as_json`` wrote of shared images; ExchangeError where it was changed."""
    plain = json.loads(content)
    return sharing_of(plain["shared"]) if "shared" in plain else NOTHING
