"""The process that opens images and trains; it has no line to anywhere but its parent.

It reads errands as lines of JSON on standard input and says on standard output how far it is. It
keeps model, data and GPU warm from round to round; a coordinator's run that changes ends it, so
that nothing of one run is there for the next. The update goes into the outbox: what the parent
learns is a code.
"""

import contextlib
import ctypes
import json
import logging
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.daemon.consent import against_evaluation, too_fine
from confrere_client.daemon.errand import read_delivery, read_spooled
from confrere_client.daemon.lessons import Shelf, entry_of, evaluated, shelf, terms_of
from confrere_client.daemon.outbox import MaskedUpdate, Outbox
from confrere_client.daemon.veiled import claim, seat_of
from confrere_client.describing import describe
from confrere_client.facts import Pixels
from confrere_client.finetune.lacking import lacking
from confrere_client.finetune.lesson import Lesson, site_lesson
from confrere_client.hospital.plans import read_plan
from confrere_client.hospital.policy import Policy, effective, may_leave, read_policy, usable_images
from confrere_client.hospital.registry import open_registered, printable
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_client.marking import marks_that_leave
from confrere_client.privacy.budget import Ledger
from confrere_client.privacy.private_round import Account
from confrere_client.state import Keepsake
from confrere_client.train import Trainer
from confrere_client.work import Desk, answer, answer_masked
from confrere_common.code import code_digest
from confrere_common.codes import code_of
from confrere_common.config import Run
from confrere_common.describe import Describe, description_text
from confrere_common.errors import ExchangeError, PrivacyError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.loading import COMMON_FAMILIES, digest, dump, parse_run
from confrere_common.log import start_logging, without_text
from confrere_common.privacy.accounting import Budget
from confrere_common.storage import atomic_write
from confrere_common.weights import weights_digest

log = logging.getLogger(__name__)

KEEP_ROUNDS = 3
"""States of rounds that a site keeps of itself: the server may step back by one."""


class Worker:
    """One site's training process."""

    def __init__(self, site: SiteFolder, say: TextIO) -> None:
        self.site = site
        self._say = say
        self._outbox = Outbox(folder=site.outbox, key=site.outbox_key())

    def serve(self, lines: Iterator[str]) -> None:
        """Carry out one errand after the other until the parent hangs up."""
        self.tell(ready=True)
        for line in lines:
            plain = json.loads(line)
            try:
                self.carry_out(plain)
            except Exception as fault:  # the boundary: the parent learns a code
                log.exception("an errand failed", exc_info=without_text(fault))
                self.tell(errand=plain.get("key"), refused=_code(fault))

    def carry_out(self, plain: dict[str, Any]) -> None:
        """Train what an errand asks for and put the update into the outbox."""
        if plain["code"] != code_digest():
            self.tell(errand=plain["key"], refused="other-code")
            return
        policy = read_policy(self.site.policy)
        _limit(policy)
        task = read_spooled(Path(plain["path"]))
        run = effective(parse_run(json.loads(task.run), COMMON_FAMILIES), policy)
        if task.evaluate:
            self._evaluate(plain, task, run, policy)
            return
        if run.describe is not None and run.stage == "describe":
            self._describe(plain, run, run.describe, policy)
            return
        text = dump(run)
        own = Task(run=text, round=task.round, seed=task.seed, weights=task.weights)
        lent = self._shelf(plain["run_id"], run, policy)
        images, learned = site_lesson(run, lent.images, lent.held)
        _say_what_is_lacking(plain["run_id"], images)
        if len(images) < policy.min_images:
            self.tell(errand=plain["key"], refused="not-enough-images")
            return
        owners_N = lent.images.catalog.patients[learned]
        desk = Desk(
            site=self.site.config.site,
            images=images,
            keepsake=self._keepsake(plain["run_id"], text),
            trainer=_trainer,
            watch=lambda step, steps, loss: self.tell(
                errand=plain["key"], step=step, steps=steps, loss=loss
            ),
            say=_code,
            leave=lambda metrics: may_leave(policy, metrics, len(images)),
            account=_account(self.site, policy, run, owners_N, plain["run_id"]),
            # Whatever could be read or has labels: the server admits no other number.
            enrolled=usable_images(policy, entry_of(self.site.folder, run)),
        )
        said = self._masked(plain, task, desk, text) if plain.get("masked") else answer(own, desk)
        if desk.account is not None:
            # The audit log's own head reaches the coordinator, and with it fixes the ledger's.
            rows, head = desk.account.ledger.head()
            self.site.chain().append("ledger head", rows=rows, head=head)
        if isinstance(said, Refusal):
            self.tell(errand=plain["key"], refused=said.reason)
            return
        if isinstance(said, Update):
            self._outbox.put(plain["key"], plain["run_id"], said)
        else:
            self._outbox.put_masked(plain["key"], plain["run_id"], said)
        self.tell(errand=plain["key"], done=True)

    def _shelf(self, run_id: str, run: Run, policy: Policy) -> Shelf:
        terms = terms_of(run, policy, self.site.runs / run_id)
        return shelf(self.site.folder, dump(run), terms)

    def _keepsake(self, run_id: str, text: str) -> Keepsake:
        return Keepsake(folder=self.site.runs / run_id, digest=digest(text), keep=KEEP_ROUNDS)

    def _evaluate(self, plain: dict[str, Any], task: Task, run: Run, policy: Policy) -> None:
        """Put counts of a model's scores on held-out patients, or their mean, into the outbox.

        Of one model the site says one thing, however often it is asked and whoever came meanwhile:
        two answers might differ by a patient.
        """
        if code := against_evaluation(policy, run, task.round, task.part):
            self.tell(errand=plain["key"], refused=code)
            return
        path = self.site.runs / plain["run_id"] / f"evaluation-{plain['key']}.json"
        if not path.exists():
            text = dump(run)
            lent = self._shelf(plain["run_id"], run, policy)
            kept = self._keepsake(plain["run_id"], text).load(before=task.round + 1)
            atomic_write(path, evaluated(task, _trainer(text), kept, lent, policy).encode())
        told, policy = path.read_text(), read_policy(self.site.policy)  # it may be stricter by now
        if too_fine(policy, told) or against_evaluation(policy, run, task.round, task.part):
            self.tell(errand=plain["key"], refused="policy-evaluation")
            return
        update = Update(
            site=self.site.config.site,
            round=task.round,
            delta={},
            images=usable_images(policy, entry_of(self.site.folder, run)),
            description=told,
        )
        self._outbox.put(plain["key"], plain["run_id"], update)
        self.tell(errand=plain["key"], done=True)

    def _describe(self, plain: dict[str, Any], run: Run, asked: Describe, policy: Policy) -> None:
        """Put what may be told of the site's images into the outbox; nothing is trained."""
        entry = entry_of(self.site.folder, run)
        records = open_registered(entry, policy.max_images).records()
        told = describe(
            records,
            asked,
            smallest=policy.min_cell,
            vouched=entry.one_image_per_patient,
            modality=entry.modality,
        )
        update = Update(
            site=self.site.config.site,
            round=1,
            delta={},
            images=usable_images(policy, entry),
            description=description_text(told, asked),
            marks=marks_that_leave(
                records,
                asked,
                allowed=policy.duplicates,
                run_id=plain["run_id"],
                most_bytes=policy.max_bytes_per_round,
            ),
        )
        self._outbox.put(plain["key"], plain["run_id"], update)
        self.tell(errand=plain["key"], done=True)

    def _masked(
        self, plain: dict[str, Any], task: Task, desk: Desk, own_run: str
    ) -> MaskedUpdate | Refusal:
        """Train *own_run*, perhaps narrowed by the policy, for what all sites signed: *task*."""
        delivery = read_delivery(Path(plain["path"]))
        plan = read_plan(self.site.folder, plain["run_id"])
        seat = seat_of(self.site, plan, read_policy(self.site.policy))
        said = answer_masked(delivery, task, replace(desk, seat=seat), own_run)
        if isinstance(said, Refusal):
            return said
        if not isinstance(said, np.ndarray):
            raise ExchangeError("a delivery of shares was not answered with a masked update")
        claim(self.site, plan, (weights_digest(task.weights), task.seed, task.round))
        return MaskedUpdate(round=task.round, vector=said)

    def tell(self, **facts: object) -> None:
        """Say something to the parent."""
        self._say.write(json.dumps(facts) + "\n")
        self._say.flush()


@lru_cache(maxsize=1)
def _trainer(text: str) -> Trainer:
    return Trainer(parse_run(json.loads(text), COMMON_FAMILIES))


def _say_what_is_lacking(run_id: str, images: Pixels) -> None:
    """Tell the hospital, in its own log, which of the run's classes no image here has."""
    if isinstance(images, Lesson):
        said = lacking(images.finetune, images.counts, "this site")
        _say_once(run_id, tuple(printable(sentence, 600) for sentence in said))


@lru_cache(maxsize=1)
def _say_once(run_id: str, sentences: tuple[str, ...]) -> None:
    """Log what is to be known of a run; not again each round."""
    for sentence in sentences:
        log.warning("run '%s': %s", run_id, sentence)


def _account(
    site: SiteFolder, policy: Policy, run: Run, owners_N: NDArray[np.int64], run_id: str
) -> Account | None:
    """Return what pays for a private run: the ledger of this site, the budget of its policy.

    PrivacyError where a promise to patients could not be kept: who they are is not known, or which
    images are used depends on those of other patients.
    """
    if run.privacy is None:
        return None
    entry = entry_of(site.folder, run)
    if entry.unknown_patients and not entry.one_image_per_patient:
        raise PrivacyError(
            f"{entry.unknown_patients} images of '{entry.name}' have no known patient: register "
            "them with a patient column, or vouch for them with --one-image-per-patient."
        )
    if policy.max_images is not None and entry.images > policy.max_images:
        raise PrivacyError(
            "max_images picks images by name, so one patient's could push out another's: take it "
            "out of policy.yaml for private runs, or register fewer images."
        )
    taught = len(np.unique(owners_N))
    if run.stage == "finetune" and taught != entry.patients:
        raise PrivacyError(
            f"{taught} of {entry.patients} patients of '{entry.name}' have what the task wants, "
            "and the plan was approved on the terms of all: register those that have it as a data "
            "set of their own."
        )
    return Account(
        data_set=entry.name,
        run=run_id,
        study=site.config.study,
        owners_N=owners_N,
        ledger=Ledger(path=site.ledger, witness=site.ledger_witness),
        budget=Budget(epsilon=policy.budget_epsilon, delta=policy.budget_delta),
    )


def _code(fault: BaseException) -> str:
    """Return the code for *fault*; a state that a full disk refused is the disk's fault."""
    code, cause = code_of(fault), fault.__cause__
    return code_of(cause) if code == "internal" and isinstance(cause, OSError) else code


def _limit(policy: Policy) -> None:
    """Hold the process itself to what the policy allows it."""
    if policy.threads is not None:
        torch.set_num_threads(policy.threads)
    if policy.memory_mb is not None:
        most = policy.memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even one that is stopped (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # prctl(2)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def _lines() -> Iterator[str]:
    """Yield what the parent says; when it hangs up, the process ends, in mid-training too.

    A daemon that was killed is started again, and its new worker does the same round: two at once
    would write the same files.
    """
    heard: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            heard.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield heard.get()


def main() -> None:
    """Serve errands until standard input ends."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    _end_with(parent)
    start_logging(logging.INFO)
    # Whatever a library prints goes to the log: standard output is the parent's.
    say = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        Worker(open_site(folder), say).serve(_lines())


if __name__ == "__main__":
    main()
