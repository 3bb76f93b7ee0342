"""What the worker keeps at hand of a data set: what is learned from, and who is held out.

Held out are those on whom a model's worth is counted (part 'test'), and others by whom the
coordinator chooses the round that it publishes ('val').
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from logging import getLogger
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images, content_digest
from confrere_client.evaluation.enough import averaged, scorable
from confrere_client.evaluation.federated import NothingToScore, told
from confrere_client.finetune.held_out import NOBODY, Seen, as_noted, held_out
from confrere_client.finetune.judge import Exam, judge_of, score
from confrere_client.finetune.lesson import marked, taught
from confrere_client.hospital.finetune_text import lets_evaluate, lets_validate
from confrere_client.hospital.policy import Policy, may_leave
from confrere_client.hospital.registry import (
    NothingToTrain,
    Registered,
    chosen,
    dataset_of,
    images_for,
    open_registered,
    registered,
)
from confrere_client.source import Record, Source
from confrere_client.train import LocalState, Trainer
from confrere_common.config import Run
from confrere_common.errors import DataError
from confrere_common.exchange import Task
from confrere_common.judged import evaluation_of
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.model import load_weights, task_of
from confrere_common.task import FineTask
from confrere_common.validated import VALIDATED, unchosen, validation_text

log = getLogger(__name__)
Rows = NDArray[np.int64]

NOTE, CHOOSERS = "held-out.json", "validation.json"
"""In a run's folder: who is held out of it, and by whom its round is chosen; of which data set."""

LOCAL = "local/"
"""Before the names of weights that a site keeps to itself, in its state."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a site's policy and its notes say of the images that a run may see."""

    at_most: int | None
    """Images that may be used."""

    smallest: int | None
    """Patients that each count of a model's scores holds at least; None where none may leave."""

    validates: bool
    """Whether the mean of others' scores may leave."""

    note: Path
    """Who is held out, since the run began here."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that a model is scored on."""

    images: Images
    asked: Rows
    """Which of these: marked ones, of patients who are known."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """One data set as a run sees it."""

    images: Images
    """What may be learned from."""

    held: Rows
    """Of these, what is held out all the same."""

    exam: Images
    """Where the images lie that the model is scored on."""

    asked: Rows
    """Which of these are scored: marked ones, of patients who are known."""

    val: Part
    """What the round is chosen by."""


def entry_of(folder: Path, run: Run) -> Registered:
    """Return the data set that a run means at the site in *folder*."""
    entries = registered(folder)
    return entries[chosen(dataset_of(run), entries)]


def terms_of(run: Run, policy: Policy, home: Path) -> Terms:
    """Return the terms of a run whose folder is *home*."""
    asked = evaluation_of(run)
    told = asked is not None and lets_evaluate(policy)
    return Terms(
        at_most=policy.max_images,
        smallest=max(asked.min_cell, policy.min_cell) if asked and told else None,
        validates=told and lets_validate(policy),
        note=home / NOTE,
    )


@lru_cache(maxsize=1)
def shelf(folder: Path, text: str, terms: Terms) -> Shelf:
    """Return the data set of the run that is written in *text*.

    Nobody is held out of whom nothing could be told: that would cost marks and serve no one.
    """
    run = parse_run(json.loads(text), COMMON_FAMILIES)
    entry = entry_of(folder, run)
    if entry.only_scored:
        return _only_scored(run, entry, folder, terms)
    # Before images are decoded: what changes meanwhile is another data set to the next round.
    whole = _fingerprint(entry, run) if evaluation_of(run) and terms.at_most is not None else None
    images = images_for(entry, run, folder / "cache", at_most=terms.at_most)
    if evaluation_of(run) is None:
        return _whole(images)
    seen = Seen(
        fingerprint=whole or images.digest,
        records=open_registered(entry).records(),
        tests=_listed(open_registered(entry, part="test")),
    )
    held, sound = as_noted(
        run, images, seen, terms.note, lambda: _worth_holding(run, entry, images, seen, terms)
    )
    choosers, val = _choosers(run, entry, images, seen, terms, held)
    apart = np.union1d(held, choosers)
    if not sound:
        log.warning("nobody is scored in this run: its images, or its note, are no longer the same")
        return replace(_whole(images), held=apart)
    lend = partial(images_for, entry, run, folder / "cache")
    exam = _part(run, entry, images, held, seen, partial(lend, part="test"))
    if val is not None:
        chosen_by = _part(run, entry, images, choosers, val, partial(lend, part="val"))
    else:
        chosen_by = Part(images=images, asked=NOBODY)
    return Shelf(
        images=images,
        held=apart,
        exam=exam.images,
        asked=exam.asked,
        val=_telling(run, chosen_by, terms),
    )


def _whole(images: Images) -> Shelf:
    """Return a shelf on which nobody is held out and nobody is scored."""
    nobody = Part(images=images, asked=NOBODY)
    return Shelf(images=images, held=NOBODY, exam=images, asked=NOBODY, val=nobody)


def _choosers(
    run: Run, entry: Registered, images: Images, seen: Seen, terms: Terms, held: Rows
) -> tuple[Rows, Seen | None]:
    """Return all images of who is kept to choose the round, beside *held*; and where they lie.

    None where nobody may be scored for it.
    """
    if unchosen(run):
        return NOBODY, None
    marked_so = replace(seen, tests=_listed(open_registered(entry, part="val")))
    found, sound = as_noted(
        run, images, marked_so, terms.note.with_name(CHOOSERS),
        lambda: _worth_choosing(run, entry, images, seen, terms, held),
    )  # fmt: skip
    return found, marked_so if sound else None


def _worth_choosing(
    run: Run, entry: Registered, images: Images, seen: Seen, terms: Terms, held: Rows
) -> Rows:
    """Return all images of the patients to keep, but for those whose mean could not be told."""
    task = task_of(run)
    if task is None or terms.smallest is None:
        return NOBODY
    found = held_out(run, images, run.data.val_share, held)
    asked = _askable(run, entry, images, found, seen.records)
    useful = averaged(task, images, asked, terms.smallest)
    if not len(_telling(run, Part(images=images, asked=useful), terms).asked):
        return NOBODY
    patients_N = images.catalog.patients
    return found[np.isin(patients_N[found], patients_N[useful])]


def _telling(run: Run, part: Part, terms: Terms) -> Part:
    """Return the part without those of whom no mean may be told: of labels, the run's share.

    Who has few labels has few to validate with, as in a simulation.
    """
    task = task_of(run)
    if task is None or terms.smallest is None or not terms.validates:
        return replace(part, asked=NOBODY)
    asked = taught(part.images, part.asked, task, run.data.seed, judging=True)
    return replace(part, asked=averaged(task, part.images, asked, terms.smallest))


def _part(
    run: Run,
    entry: Registered,
    images: Images,
    rows: Rows,
    seen: Seen,
    lend: Callable[[], Images],
) -> Part:
    """Return where those lie who are scored: what the source marks, else *rows* of all."""
    exam, rows = (images, rows) if not seen.tests else (lend(), NOBODY)
    rows = np.arange(len(exam)) if seen.tests else rows
    asked = _askable(run, entry, exam, rows, seen.tests or seen.records)
    return Part(images=exam, asked=asked)


def _only_scored(run: Run, entry: Registered, folder: Path, terms: Terms) -> Shelf:
    """Return a shelf from which nothing is learned; NothingToTrain where nothing is scored."""
    if evaluation_of(run) is None:
        raise NothingToTrain("every image here is marked 'test': models are scored on them alone.")
    exam = images_for(entry, run, folder / "cache", part="test")
    tests = _listed(open_registered(entry, part="test"))
    seen = Seen(fingerprint=exam.digest, records=(), tests=tests)
    _, sound = as_noted(run, exam, seen, terms.note, lambda: NOBODY)
    everybody = np.arange(len(exam))
    asked = _askable(run, entry, exam, everybody, seen.tests) if sound else NOBODY
    return replace(_whole(exam), held=everybody, asked=asked)


def _fingerprint(entry: Registered, run: Run) -> str:
    """Return the digest that the images have where no policy caps them; all files are read."""
    size = run.data.crop_px or run.data.image_px
    return content_digest(open_registered(entry), size, run.data.channels)


def _worth_holding(run: Run, entry: Registered, images: Images, seen: Seen, terms: Terms) -> Rows:
    """Return all images of the patients to hold out, but for those who could not be told of."""
    task = task_of(run)
    if task is None or terms.smallest is None:
        return NOBODY
    held = held_out(run, images)
    asked = _askable(run, entry, images, held, seen.records)
    useful = scorable(task, images, asked, terms.smallest)
    patients_N = images.catalog.patients
    return held[np.isin(patients_N[held], patients_N[useful])]


def _listed(source: Source) -> Sequence[Record]:
    try:
        return source.records()
    except DataError:  # none is marked so
        return ()


def _askable(
    run: Run, entry: Registered, exam: Images, rows: Rows, records: Sequence[Record]
) -> Rows:
    """Return the rows that are marked and whose patient is known: cells are of patients."""
    task = task_of(run)
    rows = rows if task is None else rows[marked(exam, task)[rows]]
    if entry.one_image_per_patient:
        return rows
    unknown = [record.name for record in records if not record.patient_known]
    return rows[~np.isin(exam.catalog.names[rows], unknown)]


def evaluated(task: Task, trainer: Trainer, state: LocalState, lent: Shelf, policy: Policy) -> str:
    """Return counts of the scores that the task's weights give to held-out patients.

    Of those by whom the round is chosen, the mean that leads. What stays at the site of a model is
    taken from *state*. NothingToScore where there is nobody, or no head, or nothing learned from
    for a task that compares with it.
    """
    run, model = trainer.run, trainer.model
    asked = evaluation_of(run)
    part = lent.val if task.part == "val" else Part(images=lent.exam, asked=lent.asked)
    trainer.must_fit(task.weights)
    own = {name.removeprefix(LOCAL): t for name, t in state.items() if name.startswith(LOCAL)}
    if asked is None or not len(part.asked) or trainer.local.keys() - own.keys():
        raise NothingToScore("nobody here is held out for this task, or it has no head here")
    if not isinstance(model, FineTask):
        raise NothingToScore("the run's model is no task")
    load_weights(model, {**task.weights, **own})
    exam = Exam(
        run=run,
        images=part.images,
        learned=_learned(run, lent),
        asked=part.asked,
        device=trainer.device,
        # Distances between outlines take longer than all else, and lead nowhere.
        counted=task.part == "test" or model.marks == "mask",
        taught=None if part.images is lent.images else lent.images,
    )
    if model.compares and not len(exam.learned):
        raise NothingToScore("there is nothing here that an image could be compared with")
    answers = judge_of(run).answers(model.eval(), exam)
    smallest = max(asked.min_cell, policy.min_cell)
    if task.part == "test":
        return told(answers, exam, smallest=smallest)
    figure = score(judge_of(run), answers, exam)
    leaving = may_leave(policy, {VALIDATED: figure}, len(lent.images))
    if not leaving:
        raise NothingToScore("its mean is not known here, or may not leave")
    return validation_text(leaving[VALIDATED], len(part.asked), smallest)


def _learned(run: Run, lent: Shelf) -> Rows:
    """Return the images that a round learns from: nobody who is held out is among them."""
    task, free = task_of(run), np.setdiff1d(np.arange(len(lent.images)), lent.held)
    return NOBODY if task is None else taught(lent.images, free, task, run.data.seed)
