"""A task at a hospital, from arrival to answer: the page for an auditor.

In order: the task is read and checked against the model; the site's own state is taken up; the
model is trained on the site's images; the state is put away; the difference is handed back. What
leaves is an ``Update``: the change of the shared weights, the number of images, and the figures
in ``SENT``. Images, the site's own state and anything that names a patient stay.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confrere_client.state import Keepsake
from confrere_client.train import Pixels, Place, Trainer, Watch
from confrere_common.errors import ConfrereError
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.log import reason
from confrere_common.weights import subtract

log = logging.getLogger(__name__)

SENT = ("loss", "seconds", "seen", "rankme", "feature_std", "uniformity", "alignment", "dead_share")
"""Figures of a round that leave the site beside the update."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What one site works with."""

    site: str
    images: Pixels
    keepsake: Keepsake
    trainer: Callable[[str], Trainer]
    """The effective run as JSON -> the trainer for it; it may be one shared by many sites."""

    watch: Watch | None = None

    say: Callable[[BaseException], str] = reason
    """What may be said of a fault outside: a hospital's daemon says a code of a fixed table."""

    leave: Callable[[Mapping[str, float]], Mapping[str, float]] = dict
    """Which of the figures in ``SENT`` leave, and how: a hospital's policy decides."""


def answer(task: Task, desk: Desk) -> Answer:
    """Work on *task* and answer an update, or a refusal that says why there is none.

    Guarantee: no exception leaves this function, since its text could name a patient or a path.
    """
    try:
        return _train(task, desk)
    except ConfrereError as fault:
        log.warning("round %d refused: %s", task.round, reason(fault))
        return Refusal(site=desk.site, round=task.round, reason=desk.say(fault))
    except Exception as fault:  # the boundary: see the guarantee
        log.exception("round %d failed", task.round, exc_info=_without_text(fault))
        return Refusal(site=desk.site, round=task.round, reason=desk.say(fault))


def _train(task: Task, desk: Desk) -> Update:
    trainer = desk.trainer(task.run)
    trainer.must_fit(task.weights)

    state = desk.keepsake.load(before=task.round)
    place = Place(site=desk.site, round=task.round, seed=task.seed)
    trained = trainer.round(task.weights, state, desk.images, place=place, watch=desk.watch)
    desk.keepsake.save(task.round, trained.state)

    return Update(
        site=desk.site,
        round=task.round,
        delta=subtract(trained.weights, task.weights),
        images=len(desk.images),
        metrics=desk.leave(_told(trained.metrics)),
    )


def _told(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in SENT if name in metrics}


def _without_text(fault: Exception) -> Exception:
    """Return an exception that shows where *fault* arose, without its text."""
    return RuntimeError(type(fault).__name__).with_traceback(fault.__traceback__)
