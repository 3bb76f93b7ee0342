"""A task at a hospital, from arrival to answer: the page for an auditor.

In order: the task is read and checked against the model; the site's own state is taken up; the
model is trained on the site's images; the state is put away; the difference is handed back. What
leaves is an ``Update``: the change of the shared weights, the number of images, and the figures
in ``SENT``. Images, the site's own state and anything that names a patient stay.

A run with ``privacy`` goes another way: its round is paid from the site's ledger before an image is
read, the model sees noised gradients alone, and no figure leaves (``private_round``).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from confrere_client.facts import Pixels
from confrere_client.masked.masked_round import Seat, reply
from confrere_client.privacy.private_round import Account, bytes_digest, private_round
from confrere_client.state import Keepsake
from confrere_client.train import LocalState, Place, Trained, Trainer, Watch
from confrere_common.errors import ConfrereError, ExchangeError
from confrere_common.exchange import Answer, Refusal, Task, Update
from confrere_common.log import reason, without_text
from confrere_common.method import OWN_FIGURES
from confrere_common.secagg.messages import Reply, Request
from confrere_common.weights import subtract

log = logging.getLogger(__name__)

SENT = (
    "loss",
    "seconds",
    "seen",
    "rankme",
    "feature_std",
    "uniformity",
    "alignment",
    "dead_share",
    "spread",
    *OWN_FIGURES,
)
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

    enrolled: int | None = None
    """Images that the site enrolled with, which is what it counts for; absent: those it has."""

    account: Account | None = None
    """What pays for private runs; without it they are refused."""

    seat: Seat | None = None
    """What it needs for rounds under secure aggregation; without, it refuses them."""


def answer(task: Task, desk: Desk) -> Answer:
    """Work on *task* and answer an update, or a refusal that says why there is none.

    Guarantee: no exception leaves this function, since its text could name a patient or a path.
    """
    try:
        _must_go_plain(task, desk)
        return _train(task, desk)
    except Exception as fault:  # the boundary: see the guarantee
        return _refusal(fault, task.round, desk)


def answer_masked(
    request: Request, task: Task | None, desk: Desk, own_run: str = ""
) -> Reply | Refusal:
    """Go one step of a round under secure aggregation: the update leaves under its masks only.

    *own_run* is the run as this site's policy narrows it; the task itself is what all sites signed.

    Guarantee: no exception leaves this function, and no update in the clear.
    """
    try:
        if desk.seat is None:
            raise ExchangeError("this site has no keys for secure aggregation")
        return reply(
            request, task, desk.seat, lambda due: _train(replace(due, run=own_run or due.run), desk)
        )
    except Exception as fault:  # the boundary: see the guarantee
        return _refusal(fault, task.round if task is not None else 0, desk)


def _refusal(fault: Exception, round: int, desk: Desk) -> Refusal:
    if isinstance(fault, ConfrereError):
        log.warning("round %d refused: %s", round, reason(fault))
    else:
        log.exception("round %d failed", round, exc_info=without_text(fault))
    return Refusal(site=desk.site, round=round, reason=desk.say(fault))


def _must_go_plain(task: Task, desk: Desk) -> None:
    if desk.trainer(task.run).run.secure_aggregation is not None:
        raise ExchangeError(
            "an update in the clear is asked for, but the run promises secure_aggregation"
        )


def _train(task: Task, desk: Desk) -> Update:
    trainer = desk.trainer(task.run)
    trainer.must_fit(task.weights)

    state = desk.keepsake.load(before=task.round)
    place = Place(site=desk.site, round=task.round, seed=task.seed)
    if trainer.run.privacy is not None:
        trained = _privately(task, trainer, state, desk, place)
    else:
        trained = trainer.round(task.weights, state, desk.images, place=place, watch=desk.watch)
    desk.keepsake.save(task.round, trained.state)

    return Update(
        site=desk.site,
        round=task.round,
        delta=subtract(trained.weights, task.weights),
        images=desk.enrolled or len(desk.images),
        metrics=desk.leave(_told(trained.metrics)),
    )


def _privately(
    task: Task, trainer: Trainer, state: LocalState, desk: Desk, place: Place
) -> Trained:
    paid = private_round(
        task, trainer, state, desk.images, desk.account, place=place, watch=desk.watch
    )
    if desk.account is not None:
        leaving = bytes_digest(subtract(paid.trained.weights, task.weights))
        desk.account.ledger.release(paid.spend, leaving)
    return paid.trained


def _told(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in SENT if name in metrics}
