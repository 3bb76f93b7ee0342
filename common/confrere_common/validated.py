"""Whether a federated fine-tuning chooses its round, and what a site tells for that, as one line.

After each round sites score the joined model on their own validation patients, and tell one mean.
Both sides read it with the same function, as they do counts (``judged``).
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from confrere_common.config import Run
from confrere_common.errors import ExchangeError
from confrere_common.judged import MOST_SMALLEST, evaluation_of
from confrere_common.mixing import Mixing, mixings_of
from confrere_common.model import task_of

VALIDATED = "val_score"
"""What a policy calls the figure, among those that may leave."""

UNCHOSEN: Mapping[str, str] = {
    "privacy": "with privacy, a look at validation patients after each round would be one that no "
    "ledger knows",
    "local": "weights stay at their sites (finetune.head, federation.personal or a mixing), so no "
    "earlier round can be put together again",
    "off": "the run asks its sites for no score (finetune.evaluation is null)",
}
"""Why no round is chosen -> the same in words."""

MOST_IMAGES = 10**9


def unchosen(run: Run) -> str:
    """Return why a federation chooses no round of *run*, a key of UNCHOSEN; '' where it does."""
    task = task_of(run)
    if run.privacy is not None:
        return "privacy"
    if (task is not None and task.head == "local") or run.federation.personal or _stays(run):
        return "local"
    return "off" if evaluation_of(run) is None else ""


def _stays(run: Run) -> bool:
    whole = vars(Mixing)["stays"].__func__
    return any(kind.stays.__func__ is not whole for _, kind, _ in mixings_of(run))  # type: ignore[attr-defined]


def is_validated(run: Run, round: int) -> bool:
    """Say whether sites are to score the model joined in *round* on validation patients."""
    return not unchosen(run) and 1 <= round <= run.federation.rounds


def told_choice(run: Run) -> str:
    """Return in a sentence what becomes of a federated fine-tuning's rounds, before the first."""
    task, why = task_of(run), unchosen(run)
    if task is None:
        return ""
    if why:
        unused = "" if task.patience is None else f" finetune.patience ({task.patience}) is unused."
        return f"All rounds are held and the last one is published: {UNCHOSEN[why]}.{unused}"
    ends = (
        "All rounds are held"
        if task.patience is None
        else f"Training ends after {task.patience} rounds without a better one"
    )
    return (
        f"{ends}, and the round that is best on the sites' validation patients is published; where "
        "no site has enough of them, the last one is."
    )


def validation_text(score: float, images: int, smallest: int) -> str:
    """Return what leaves a site: a mean over *images* images of *smallest* patients or more.

    Guarantee: one number of 0 to 1 and two counts leave, and no figure of a single patient.
    """
    text = json.dumps({"images": images, "score": score, "smallest": smallest})
    read_validation(text, smallest)
    return text


def read_validation(text: str, least: int) -> tuple[float, int]:
    """Return the score in *text* and how many images it is of; ExchangeError unless it is sound."""
    try:
        plain: Any = json.loads(text[:200])
        score, images, smallest = (plain[name] for name in ("score", "images", "smallest"))
        sound = len(plain) == 3 and type(score) is float and math.isfinite(score)
        whole = type(images) is int and type(smallest) is int
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ExchangeError("what came is no score of this version.") from None
    if not (sound and whole and 0 <= score <= 1 and smallest <= images <= MOST_IMAGES):
        raise ExchangeError("what came is no score of 0 to 1 of enough images.")
    if not least <= smallest <= MOST_SMALLEST:
        raise ExchangeError(f"it is of {smallest} patients or more; the run asks for {least}.")
    return score, images
