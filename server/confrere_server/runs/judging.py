"""What sites say of the joined model's scores: heard, kept beside the checkpoints, put together.

``evaluations/round-0010.json`` is written when all that is to come has come: a server that was
killed before asks again, and a site answers the same.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Answer, Refusal, Task
from confrere_common.finetune import Finetune
from confrere_common.judged import SCORED, evaluation_of, read_evaluation
from confrere_common.model import task_of
from confrere_common.storage import atomic_write
from confrere_server import grading, pooling
from confrere_server.runs.outcome import ABSENT
from confrere_server.runs.queue import Folder
from confrere_server.store import ServerState

FOLDER, FILE = "evaluations", "evaluation.json"

SIDES = ("positives", "negatives")

MANY = 10
"""Times as many images as a site trains on that it may have to score a model on."""

Said: TypeAlias = Mapping[str, Any] | str
"""What a site told, as plain values; or why it told nothing."""


def evaluate(
    folder: Folder,
    state: ServerState,
    sites: Mapping[str, int],
    ask: Callable[[Task], Iterable[Answer]],
    note: Callable[..., Any],
    due: int | None = None,
) -> None:
    """Have *sites* score the model in *state*, and keep what they say.

    *sites* are named with the images that each enrolled with. The model is asked about as that of
    round *due*: sites approved an evaluation after the last round, and the model that is published
    may be of an earlier one.
    """
    order, run = folder.order, folder.order.parsed()
    number = state.round if due is None else due
    task = Task(
        run=order.run, round=number, seed=run.seeds[0], weights=state.weights, evaluate=True
    )
    said = heard_of(run, sites, ask(task))
    for site, told in said.items():
        code = told if isinstance(told, str) else ""
        note("evaluated", run=order.id, round=state.round, site=site, refused=code)
    keep(folder.path, state.round, said, number)


def heard_of(run: Run, sites: Mapping[str, int], answers: Iterable[Answer]) -> dict[str, Said]:
    """Return what each of *sites* said; that it was silent, or its answer unsound, if so.

    How many images a site may tell of hangs on how many it enrolled with (``within``).
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
            _must_suit(told, task)
            apart = SCORED[task.task.name] == "precision"
            said[answer.site] = within(told, sites[answer.site], apart=apart)
        except ExchangeError as fault:
            said[answer.site] = f"its evaluation was left out: {fault}"
    return said


def _must_suit(told: Mapping[str, Any], task: Finetune) -> None:
    """Raise ExchangeError for counts that no site makes of this task: they would be pooled too."""
    odd = {one["kind"] for one in told["tallies"]} - {task.normal}
    if task.normal is not None and odd:
        raise ExchangeError("it tells of another class than the normal one.")
    if SCORED[task.task.name] == "precision" and any(one["negatives"] for one in told["tallies"]):
        raise ExchangeError("it tells of searches for a class by images of others.")


def within(told: Mapping[str, Any], enrolled: int, *, apart: bool = False) -> dict[str, Any]:
    """Return an answer, marked with ``enrolled`` where it counts more images than that.

    *apart*: tallies are of different images; else all are of the same ones.

    A part 'test' may be larger than what a site trains on, which is what it enrolled with. But a
    count is its word alone, and a huge one would be all that a pooled figure tells: ExchangeError
    for more than MANY times as many.
    """
    sums = [sum(n for side in SIDES for *_, n in tally[side]) for tally in told["tallies"]]
    images = sum(sums) if apart else max(sums, default=0)
    if images > MANY * enrolled:
        raise ExchangeError(
            f"it tells of {images} images and enrolled with {enrolled}; at most {MANY} times as "
            "many are believed."
        )
    return {**told, "enrolled": enrolled} if images > enrolled else dict(told)


def keep(folder: Path, round: int, said: Mapping[str, Said], due: int | None = None) -> None:
    """Write down what sites said of the model that was joined in *round*, or asked for at *due*."""
    text = json.dumps({"round": round, "sites": dict(said)})
    atomic_write(_path(folder, round if due is None else due), text.encode())


def judged(folder: Path, due: int) -> Mapping[str, Said] | None:
    """Return what sites said when asked after round *due*; None while that is to come."""
    found = _kept(folder, due)
    return None if found is None else found[1]


def summed(folder: Path, run: Run) -> list[dict[str, Any]]:
    """Return what all evaluations of a run come to, that of the published model last."""
    found = (_kept(folder, due) for due in range(1, run.federation.rounds + 1))
    return [{"round": one[0], **put_together(one[1], run)} for one in found if one is not None]


def _kept(folder: Path, due: int) -> tuple[int, Mapping[str, Said]] | None:
    """Return the round of the model that was scored after round *due*, and what sites said."""
    try:
        plain = json.loads(_path(folder, due).read_bytes())
        return int(plain["round"]), dict(plain["sites"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def put_together(said: Mapping[str, Said], run: Run) -> dict[str, Any]:
    """Return what sites said of one model, and what that comes to, as plain values for a report."""
    task = task_of(run)
    areas = task is None or SCORED[task.task.name] == "auc"
    return pooling.together(said, run) if areas else grading.together(said, run)


def _path(folder: Path, round: int) -> Path:
    return folder / FOLDER / f"round-{round:04d}.json"
