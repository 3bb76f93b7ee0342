"""What sites say of the joined model's scores: heard, kept beside the checkpoints, put together.

``evaluations/round-0010.json`` is written when all that is to come has come: a server that was
killed before asks again, and a site answers the same.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeAlias

from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.judged import evaluation_of, read_evaluation
from confrere_common.model import task_of
from confrere_common.storage import atomic_write
from confrere_server import grading, pooling
from confrere_server.runs.outcome import ABSENT
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState

FOLDER, FILE = "evaluations", "evaluation.json"

SIDES = ("positives", "negatives")

Said: TypeAlias = Mapping[str, Any] | str
"""What a site told, as plain values; or why it told nothing."""


def evaluate(
    folder: Folder,
    state: ServerState,
    sites: Mapping[str, int],
    ask: Callable[[Task], Iterable[Answer]],
    note: Callable[..., Any],
) -> None:
    """Have *sites* score the model in *state*, and keep what they say.

    *sites* are named with the images that each enrolled with.
    """
    order, run = folder.order, folder.order.parsed()
    task = Task(
        run=order.run, round=state.round, seed=run.seeds[0], weights=state.weights, evaluate=True
    )
    said = heard_of(run, sites, ask(task))
    for site, told in said.items():
        code = told if isinstance(told, str) else ""
        note("evaluated", run=order.id, round=state.round, site=site, refused=code)
    keep(folder.path, state.round, said)


def heard_of(run: Run, sites: Mapping[str, int], answers: Iterable[Answer]) -> dict[str, Said]:
    """Return what each of *sites* said; that it was silent, or its answer unsound, if so.

    A site counts for as many images as it enrolled with, at most (``within``).
    """
    asked, task = evaluation_of(run), task_of(run)
    said: dict[str, Said] = dict.fromkeys(sites, ABSENT)
    for answer in answers:
        if answer.site not in said or asked is None or task is None:
            continue
        if isinstance(answer, Refusal):
            said[answer.site] = answer.reason
            continue
        try:
            classes = len(task.classes or ())
            told = read_evaluation(answer.description, classes, asked.min_cell)
            said[answer.site] = within(told, sites[answer.site])
        except ExchangeError as fault:
            said[answer.site] = f"its evaluation was left out: {fault}"
    return said


def within(told: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return an answer in which no tally counts more than *most* images; ExchangeError if none may.

    A count is a site's word alone, and a large one would be all that a pooled figure tells. Where a
    tally has more, all its cells are scaled down alike, and ``claimed`` is what it told of.
    """
    if most < 1:
        raise ExchangeError("it enrolled with no images, so none of its counts is taken.")
    claimed = max((sum(_counts(tally)) for tally in told["tallies"]), default=0)
    if claimed <= most:
        return dict(told)
    return {
        **told,
        "tallies": [_scaled(tally, most) for tally in told["tallies"]],
        "claimed": claimed,
    }


def _scaled(tally: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return a tally of *most* images at most; a cell that would be of none is left out."""
    counts = _counts(tally)
    total, ends = sum(counts), [0, *accumulate(counts)]
    kept = [end * min(most, total) // total for end in ends]  # of sums, so that no cell's rest adds
    left = iter([after - before for before, after in pairwise(kept)])
    scaled = {side: [[*ends, n] for *ends, _ in tally[side] if (n := next(left))] for side in SIDES}
    return {**tally, **scaled}


def _counts(tally: Mapping[str, Any]) -> list[int]:
    return [n for side in SIDES for *_, n in tally[side]]


def keep(folder: Path, round: int, said: Mapping[str, Said]) -> None:
    """Write down what sites said of the model that was joined in *round*."""
    text = json.dumps({"round": round, "sites": dict(said)})
    atomic_write(_path(folder, round), text.encode())


def judged(folder: Path, round: int) -> Mapping[str, Said] | None:
    """Return what sites said of the model of *round*; None while that is to come."""
    try:
        plain: dict[str, Said] = json.loads(_path(folder, round).read_bytes())["sites"]
        return dict(plain)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def summed(folder: Path, run: Run) -> list[dict[str, Any]]:
    """Return what all evaluations of a run come to, the last one last."""
    found = ((round, judged(folder, round)) for round in range(1, run.federation.rounds + 1))
    return [
        {"round": round, **put_together(said, run)} for round, said in found if said is not None
    ]


def put_together(said: Mapping[str, Said], run: Run) -> dict[str, Any]:
    """Return what sites said of one model, and what that comes to, as plain values for a report."""
    task = task_of(run)
    segmenting = task is not None and task.task.name == "segmentation"
    return grading.together(said, run) if segmenting else pooling.together(said, run)


def _path(folder: Path, round: int) -> Path:
    return folder / FOLDER / f"round-{round:04d}.json"
