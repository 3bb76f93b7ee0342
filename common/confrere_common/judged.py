"""Federated evaluation: when a run asks for it, and what a site may answer, as one line of text.

Both sides read an answer with the same function, so that a count under the minimum is stopped where
it would leave, and not believed where it comes in.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from confrere_common.config import Run
from confrere_common.describe import MOST_TEXT
from confrere_common.errors import ExchangeError
from confrere_common.finetune import Evaluation
from confrere_common.model import task_of
from confrere_common.tally import read_tally

SCORED: Mapping[str, str] = {
    "classification": "auc",
    "segmentation": "dice",
    "detection": "auc",
    "anomaly": "auc",
    "retrieval": "precision",
}
"""Task whose answers are values of 0 to 1 for each image, which can be counted in cells -> what the
counts come to. The values: probabilities of its classes, the Dice of its structures, how sure it is
of its surest box, how normal the image looks, or what share of what it finds is of its class."""

MOST_SMALLEST = 10**6


def evaluation_of(run: Run) -> Evaluation | None:
    """Return what a run asks of sites when it was trained; None where it asks nothing."""
    task = task_of(run)
    if task is None or task.task.name not in SCORED or run.privacy is not None:
        return None
    return task.evaluation


def is_due(run: Run, round: int) -> bool:
    """Say whether the model joined in *round* is to be evaluated."""
    asked, rounds = evaluation_of(run), run.federation.rounds
    if asked is None or not 1 <= round <= rounds:
        return False
    return round == rounds or (asked.every is not None and round % asked.every == 0)


def evaluation_text(plain: Mapping[str, Any], classes: int, least: int) -> str:
    """Return what leaves a site; ExchangeError for what ``read_evaluation`` refuses.

    Guarantee: nothing but whole numbers leaves, under names that both sides know; every count is of
    *least* images or more.
    """
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True)
    read_evaluation(text, classes, least)
    return text


def read_evaluation(text: str, classes: int, least: int) -> dict[str, Any]:
    """Return the answer in *text* as plain values; ExchangeError unless all of it is sound."""
    try:
        if len(text) > MOST_TEXT:
            raise ExchangeError(f"it has {len(text)} characters; at most {MOST_TEXT} are read.")
        plain = json.loads(text)
        _must_be_sound(plain, classes, least)
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        raise ExchangeError("what came is no evaluation of this version.") from None
    return dict(plain)


def _must_be_sound(plain: Any, classes: int, least: int) -> None:
    if sorted(plain) != ["classes", "smallest", "tallies"]:
        raise TypeError
    smallest, tallies = plain["smallest"], plain["tallies"]
    if type(smallest) is not int or not least <= smallest <= MOST_SMALLEST:
        raise ExchangeError(f"its cells hold {smallest!r:.40} or more; the run asks for {least}.")
    if plain["classes"] != classes or not isinstance(tallies, Sequence) or len(tallies) > classes:
        raise ExchangeError(f"it tells of other classes than the run's {classes}.")
    read = [read_tally(one, classes) for one in tallies]
    if len({one.kind for one in read}) < len(read):
        raise ExchangeError("it tells of a class twice.")
    counts = [n for one in read for side in (one.positives, one.negatives) for _, _, n in side]
    if min(counts, default=smallest) < smallest:
        raise ExchangeError(f"a count in it is of fewer than {smallest} patients.")
