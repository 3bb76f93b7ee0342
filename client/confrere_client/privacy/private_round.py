"""A private round at a hospital: refused, or paid in full, before an image is read.

In order: the site has an account; the method is shown to treat each image alone; terms follow from
the run and the enrolled patients; the whole round is charged; the model follows noised gradients.
What leaves is their sum of steps. No loss, no count of who was drawn, and no figure is computed.

Shapes: N images of the site.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from confrere_client.facts import Pixels
from confrere_client.privacy.budget import Ledger
from confrere_client.privacy.gradients import Engine
from confrere_client.privacy.private import Private, choose_engine
from confrere_client.train import LocalState, Place, Trained, Trainer, Watch
from confrere_common.errors import PrivacyError
from confrere_common.exchange import Task
from confrere_common.loading import digest
from confrere_common.privacy.accounting import Budget, Event
from confrere_common.privacy.independence import must_stand_alone
from confrere_common.privacy.ledger import Spend
from confrere_common.privacy.settings import Privacy
from confrere_common.privacy.terms import terms
from confrere_common.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Account:
    """Whose the images are, and what pays for their use."""

    data_set: str
    study: str
    owners_N: NDArray[np.int64]
    """The patient of each image."""

    ledger: Ledger
    budget: Budget
    """What the hospital grants the patients of this data set, over all runs there will ever be."""

    run: str = ""
    """The coordinator's id of the run: equal runs are charged apart."""


@dataclass(frozen=True, kw_only=True)
class Paid:
    """A private round that was carried out."""

    trained: Trained
    spend: Spend


def private_round(  # noqa: PLR0913  (what a site has at hand)
    task: Task, trainer: Trainer, state: LocalState, images: Pixels, account: Account | None, *,
    place: Place, watch: Watch | None = None,
) -> Paid:  # fmt: skip
    """Train one round privately; PrivacyError, before an image is read, when it must not be.

    Guarantee: whatever is returned was charged before, in full, and depends on the images through
    noised gradients alone.
    """
    run, account = trainer.run, _must_have(account, len(images))
    settings = _must_ask(run.privacy)
    must_stand_alone(run)
    agreed = terms(run, len(np.unique(account.owners_N)))
    spent: list[Spend] = []

    def charge(event: Event) -> None:
        spent.append(_charge(task, account, event, agreed.budget))

    steps = Private(
        model=trainer.model,
        augment=trainer.augment,
        train=run.train,
        settings=settings,
        terms=agreed,
        owners_N=account.owners_N,
        charge=charge,
        engine=_engine(trainer),
    ).gradients(lambda positions, own: trainer.seen(images, positions, own))
    trained = trainer.follow(
        task.weights, state, steps, count=agreed.steps, place=place, watch=watch
    )
    return Paid(trained=trained, spend=spent[0])


def bytes_digest(weights: Weights) -> str:
    """Return SHA-256 of named tensors: what the ledger knows a release by."""
    running = hashlib.sha256()
    for name in sorted(weights):
        running.update(name.encode() + b"\0")
        running.update(np.ascontiguousarray(weights[name].detach().cpu().numpy()).tobytes())
    return running.hexdigest()


def _charge(task: Task, account: Account, event: Event, promised: Budget) -> Spend:
    asked = Spend(
        data_set=account.data_set,
        study=account.study,
        run=digest(f"{task.run}{account.run}"),
        round=task.round,
        attempt=0,
        rate=event.rate,
        noise=event.noise,
        steps=event.steps,
    )
    entry = account.ledger.charge(asked, account.budget, promised).entry
    if not isinstance(entry, Spend):
        raise PrivacyError("the ledger answered a charge with another kind of row.")
    return entry


@lru_cache(maxsize=1)
def _engine(trainer: Trainer) -> Engine:
    return choose_engine(trainer.model, _must_ask(trainer.run.privacy), trainer.augment)


def _must_have(account: Account | None, images: int) -> Account:
    if account is None:
        raise PrivacyError(
            "the run promises differential privacy, but this site keeps no account of its patients "
            "for these images: it needs a ledger and a budget. Nothing was read."
        )
    if len(account.owners_N) != images:
        raise PrivacyError(
            f"{len(account.owners_N)} images have a known patient, of {images}: a patient who is "
            "not known cannot be protected. Nothing was read."
        )
    return account


def _must_ask(settings: Privacy | None) -> Privacy:
    if settings is None:
        raise PrivacyError("the run asks for no privacy: it has no section 'privacy'.")
    return settings
