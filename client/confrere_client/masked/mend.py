"""The way out when notes of masked rounds are damaged: what they said is taken to be the worst.

Notes keep a site from masking one update for two sums. Without them nobody knows what left, so
everything that may have left counts as having left: nothing is ever masked a second time for it.
"""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from confrere_client.daemon.errand import rounds_begun
from confrere_client.hospital.plans import Plan, list_plans, run_of
from confrere_client.hospital.site import SiteFolder
from confrere_client.masked.mask_state import Seen
from confrere_client.masked.masked_round import Notebook, NotesInFile
from confrere_common.chain import verify
from confrere_common.errors import CheckpointError, ConfrereError, ExchangeError
from confrere_common.secagg.messages import digest_of_run
from confrere_common.storage import atomic_write

STARTS = "masked-starts.json"
"""Beside the runs' folders: from where masked updates started, and in which run."""

NOTES = "masked.json"
"""In a run's folder: the newest masked round that this site had a part in."""

Span: TypeAlias = tuple[str, int, int]
"""A masked run, its seed, and the last of its rounds."""

SEVERAL = "*"
"""In place of a run, where several may have started there: it is no run's name."""


def mend(site: SiteFolder) -> tuple[str, ...]:
    """Write anew what is damaged and return a sentence for each; a damaged file is kept beside.

    CheckpointError when the audit log, from which it is written, is itself not as it was written.
    """
    runs = {plan.proposal.run_id: plan for plan in list_plans(site.folder) if _is_masked(plan)}
    starts, notes = site.runs / STARTS, [site.runs / run / NOTES for run in runs]
    broken = [path for path in notes if _notes_broken(path)]
    if not broken and not _starts_broken(starts):
        return ()
    _must_be_sound(site)
    said = []
    if _starts_broken(starts):
        spans = [*_planned(runs.values()), *_unplanned(site, runs)]
        _keep_beside(starts)
        atomic_write(starts, json.dumps(_barred(spans)).encode())
        said.append(
            f"{STARTS}: every round of the {len(spans)} masked runs that ever came here counts as "
            "one that left under masks. These runs go on; another run is refused where it has the "
            "seed of one of them (masked-before): ask the coordinator for another seed."
        )
    for path in broken:
        said.append(_renewed(site, runs[path.parent.name], path))
    site.chain().append("masked notes mended", files=len(said))
    return tuple(said)


def barred(seed: int, round: int) -> str:
    """Return the name under which a start from any weights stands."""
    return f"* {seed} {round}"


def _barred(spans: Iterable[Span]) -> dict[str, str]:
    known: dict[str, str] = {}
    for own, seed, last in spans:
        for number in range(1, last + 1):
            name = barred(seed, number)
            known[name] = own if known.get(name, own) == own else SEVERAL
    return known


def _planned(plans: Iterable[Plan]) -> Iterator[Span]:
    for plan in plans:
        yield plan.proposal.run_id, plan.proposal.seed, run_of(plan.proposal).federation.rounds


def _unplanned(site: SiteFolder, runs: Collection[str]) -> Iterator[Span]:
    """Yield runs whose plan is gone or damaged, by their notes; CheckpointError without those."""
    left = {str(f["run"]) for event, f in _rows(site) if event == "masked update leaves"}
    noted = {path.parent.name for path in site.runs.glob(f"*/{NOTES}")}
    for run in sorted((left | noted) - {*runs}):
        path = site.runs / run / NOTES
        broken = _notes_broken(path)
        history = () if broken else NotesInFile(path).load().history
        if broken or (run in left and not history):
            raise CheckpointError(
                f"masked updates left in run '{run}', and neither its plan nor its notes can be "
                "read: nothing was mended. Put its folders back from a copy."
            )
        yield from ((run, seen.seed, seen.round) for seen in history)


def _renewed(site: SiteFolder, plan: Plan, path: Path) -> str:
    """Write a run's notes anew: the last round that was begun here is used up."""
    last = _last_begun(site, plan.proposal.run_id)
    _keep_beside(path)
    path.with_name("masked-reply.json").unlink(missing_ok=True)
    seen = Seen(
        run=digest_of_run(plan.proposal.run),
        seed=plan.proposal.seed,
        round=last,
        attempt=time.time_ns(),
        masked=True,
    )
    NotesInFile(path).save(Notebook(history=(seen,) if last else ()))
    return (
        f"run {plan.proposal.run_id}: its notes were damaged. No update is masked for round {last} "
        "or one before it; the run goes on for this site with the next."
    )


def _last_begun(site: SiteFolder, run: str) -> int:
    """Return the last round that anything here knows of: the log may be a new one."""
    own = [facts for _, facts in _rows(site) if facts.get("run") == run]
    logged = [int(facts["round"]) for facts in own if "round" in facts]
    started = [
        int(name.split()[-1])
        for name, by in read_starts(site.runs / STARTS).items()
        if by == run and not name.startswith(SEVERAL)
    ]
    return max([*logged, *started, *rounds_begun(site.runs / run)], default=0)


def _rows(site: SiteFolder) -> list[tuple[str, dict[str, Any]]]:
    rows = [json.loads(line) for line in site.audit.read_text().splitlines()]
    return [(row["event"], row["facts"]) for row in rows]


def _must_be_sound(site: SiteFolder) -> None:
    found = verify(site.audit, site.signing_key().public_key())
    if found.faults:
        raise CheckpointError(
            f"{site.audit.name} is not as it was written ({found.faults[0]}), and only from it can "
            "be told which masked rounds this site had a part in: nothing was mended. Put the log "
            "back from a copy, or let the site sit these runs out."
        )


def _notes_broken(path: Path) -> bool:
    try:
        NotesInFile(path).load()
    except (ConfrereError, OSError, ValueError):
        return True
    return False


def _starts_broken(path: Path) -> bool:
    try:
        read_starts(path)
    except ExchangeError:
        return True
    return False


def read_starts(path: Path) -> dict[str, str]:
    """Return start -> run; ExchangeError for a file that is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(run, str) for run in found.values()):
        raise ExchangeError(f"{path.name} is damaged")
    return found


def _is_masked(plan: Plan) -> bool:
    try:
        return run_of(plan.proposal).secure_aggregation is not None
    except ConfrereError:
        return False


def _keep_beside(path: Path) -> None:
    """Keep a damaged file under a second name.

    It stays under its own until another takes its place: notes that are not there say that nothing
    ever left, and a crash or a full disk may come in between.
    """
    os.link(path, path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
