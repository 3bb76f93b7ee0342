"""A study that fine-tunes, federated over sites or at one site, and judges it on test patients.

Every arm goes the same way: train, keep the round that is best on validation patients, answer for
test patients. Each of these counts for one site; where heads or whole models belong to sites, it is
that site's that answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from confrere_client.data.catalog import Catalog
from confrere_client.data.images import Images
from confrere_client.device import choose_device
from confrere_client.finetune.classification import decided
from confrere_client.finetune.judge import Answers, Exam, Judge, collected, score
from confrere_client.finetune.lesson import classes_in, marked, must_be_known, taught
from confrere_client.finetune.start import with_start
from confrere_client.state import Keepsake
from confrere_common.config import Run
from confrere_common.errors import ConfigError, DataError
from confrere_common.finetune import Finetune
from confrere_common.judged import evaluation_of
from confrere_common.loading import digest, dump
from confrere_common.model import build_model, load_weights, task_of
from confrere_common.task import TASKS, FineTask
from confrere_common.validated import unchosen
from confrere_common.weights import Weights
from confrere_deploy.engine import Job
from confrere_deploy.engines.inline import site_folder
from confrere_deploy.split import sites_of_test, spread
from confrere_deploy.study import arms
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.measure import raw_features
from confrere_deploy.study.notes import notes_on
from confrere_server.runs.course import Course, Heard

Rows = NDArray[np.int64]

HERE = "here"
"""What a hospital's own fine-tuning calls its one site."""

ARMS: Mapping[str, str] = {
    "raw": "the least that can be learned on the pixels themselves",
    "probe": "the least that can be learned on the starting encoder, frozen",
    "scratch": "the same training from scratch",
    "local": "each site fine-tunes alone",
    "federated": "the sites fine-tune together",
    "centralised": "all images in one place",
}


@dataclass(frozen=True, kw_only=True)
class Lecture:
    """What is fine-tuned, settled before it begins."""

    run: Run
    images: Images
    sites: Mapping[str, Rows]
    """Site -> marked images that it learns from."""

    val: Rows
    test: Rows
    test_sites: NDArray[np.str_]
    """The site that each test image counts for, '' for none."""

    warm: Mapping[str, Tensor]
    """Shared weights that do not start fresh."""

    notes: tuple[str, ...] = ()
    """What a reader should know of the images."""

    @property
    def finetune(self) -> Finetune:
        """Return the run's section; ConfigError where it fine-tunes nothing."""
        return must_finetune(self.run)

    @property
    def learned(self) -> Rows:
        """Return all rows that any site learns from."""
        return np.sort(np.concatenate(list(self.sites.values())))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of fine-tuning, carried out with one seed."""

    answers: Answers
    asked: Rows
    """Test images that it answered for."""

    scores: Mapping[int, float]
    """Round -> validation score."""

    best: int
    rounds: int
    losses: Mapping[int, float | None]
    seconds: float
    bytes_up: int
    bytes_down: int
    weights: Weights = field(default_factory=dict)
    """Shared weights of the best round."""

    own: Mapping[str, Answers] = field(default_factory=dict)
    """Site -> what it counts, of answers that hang on the images it learned from: as a hospital
    knows no other's, beside its own alone."""

    val: Answers = field(default_factory=dict)
    """A classifier's answers for validation images, in the order of the lecture's."""


def must_finetune(run: Run) -> Finetune:
    """Return the run's section; ConfigError where it fine-tunes nothing."""
    task = task_of(run)
    if task is None:
        raise ConfigError(["stage is pretrain: write stage: finetune, and a section finetune."])
    return task


def is_blind(run: Run) -> bool:
    """Say whether no round can be chosen: a federation of hospitals could choose none either.

    With privacy it would look at patients once more; of weights that stay at sites no round is
    whole.
    """
    return unchosen(run) in ("privacy", "local")


def must_leave_none_out(run: Run) -> None:
    """Refuse sites to be left out of a fine-tuning: an evaluation does that, site by site."""
    if run.data.leave_out:
        raise ConfigError(
            [
                "data.leave_out is for a simulated pre-training: take it out. confrere evaluate "
                "--leave-one-site-out leaves each site out of fine-tuning in turn."
            ]
        )


def prepared(run: Run, images: Images, folder: Path, *, alone: bool) -> Lecture:
    """Return what a run fine-tunes, classes and start settled; *alone*: all images are one site's.

    DataError when a part is empty, ConfigError when the start does not fit.
    """
    data = replace(run.data, channels=images.channels, dims=images.dims)  # type: ignore[arg-type]
    run = replace(arms.single(run) if alone else run, data=data)
    task = must_finetune(run)
    named = task.classes is not None
    run = replace(run, finetune=replace(task, classes=task.classes or _classes(images, task)))
    run, warm = with_start(run, folder)
    task = must_finetune(run)
    must_be_known(images, task)
    held = holdout(_told_of(images, task), data.test_share, data.val_share, data.seed)
    whole = {HERE: held.train} if alone else spread(data, images.catalog, held.train)
    sites = {site: taught(images, rows, task, data.seed) for site, rows in whole.items()}
    known = marked(images, task)
    val, test = taught(images, held.val, task, data.seed, judging=True), held.test[known[held.test]]
    _must_serve(sites, test, task)
    kept = {site: rows for site, rows in sites.items() if len(rows)}
    where = sites_of_test(images.catalog, kept, test, data.seed)
    return Lecture(
        run=run,
        images=images,
        sites=kept,
        val=val,
        test=test,
        test_sites=np.full(len(test), HERE) if alone else where,
        warm=warm,
        notes=tuple(notes_on(task, images, sites, test, named=named)),
    )


def _told_of(images: Images, task: Finetune) -> Catalog:
    """Return the catalog in which an image is labelled where the task's mark is known.

    Else images with masks or boxes and without a class would give no validation patients.
    """
    catalog = images.catalog
    if TASKS.member(task.task.name).marks == "label":
        return catalog
    labels = np.where(marked(images, task), np.maximum(catalog.labels, 0), -1)
    return replace(catalog, labels=labels, classes=catalog.classes or ("marked",))


def _classes(images: Images, task: Finetune) -> tuple[str, ...]:
    found = classes_in(images, task)
    if not found:
        raise _unmarked(task)
    return found


def _unmarked(task: Finetune) -> DataError:
    return DataError(
        f"no image is marked for the task '{task.task.name}': give a column of labels, masks or "
        "boxes."
    )


def _must_serve(sites: Mapping[str, Rows], test: Rows, task: Finetune) -> None:
    if not any(map(len, sites.values())):
        raise _unmarked(task)
    if not len(test):
        raise DataError("no test patient has a mark: mark more patients, or raise data.test_share.")


def must_build(lecture: Lecture) -> None:
    """Raise ConfigError where the run's network cannot be: before a folder is made for it."""
    build_model(lecture.run, lecture.run.seeds[0])


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Carries out arms of one lecture."""

    lecture: Lecture
    training: arms.Training
    judge: Judge

    def arm(self, name: str, seed: int) -> Arm:
        """Train one arm, or take it up where it was left, and let it answer."""
        if name == "local":
            return self._alone(seed)
        if name in ("raw", "probe"):
            return self._floor(name, seed)
        jobs = {"centralised": arms.centralised_job, "scratch": arms.scratch_job}
        job = jobs.get(name, arms.federated_job)(self.training, seed)
        return self._carried(job, self.lecture.test)

    def _alone(self, seed: int) -> Arm:
        """Return each site's own model's answers for its own test images."""
        found = []
        for job in arms.local_jobs(self.training, seed):
            (site,) = job.sites
            ours = self.lecture.test[self.lecture.test_sites == site]
            if len(ours):
                found.append(self._carried(job, ours))
        return joined(found)

    def _floor(self, name: str, seed: int) -> Arm:
        """Return what is reached without fine-tuning, on the same labels."""
        lecture, job = self.lecture, arms.federated_job(self.training, seed)
        encoder = self._model(job, lecture.warm).encoder

        def features(rows: Rows) -> NDArray[np.float32]:
            if name == "raw":
                return raw_features(lecture.images, rows)
            exam = self._exam(job, rows)
            return collected(exam, encoder)

        found = self.judge.by_probe(features, self._exam(job, lecture.test), lecture.val)
        return Arm(
            answers=found or {}, asked=lecture.test, scores={}, best=0, rounds=0, losses={},
            seconds=0.0, bytes_up=0, bytes_down=0,
        )  # fmt: skip

    def _carried(self, job: Job, asked: Rows) -> Arm:
        run = job.run
        blind = is_blind(run)
        course = Course(
            folder=job.folder,
            digest=job.digest,
            patience=None if blind else must_finetune(run).patience,
            examine=lambda state: self._examined(job, state.weights, skip=blind),
        )
        engine = self.training.engine if len(job.sites) > 1 else self.training.alone
        last = arms.carried(engine, replace(job, enough=course.enough))
        weights = course.kept(last)
        answers, rows = self._answers(job, weights, asked, last.round)
        compares = TASKS.member(must_finetune(run).task.name).compares
        counted = compares and evaluation_of(run) is not None and len(job.sites) > 1
        own = self._by_site(job, weights, asked, last.round, counted=True) if counted else {}
        val = {} if blind else self._validated(job, weights)
        return Arm(
            answers=decided(answers, val, self._exam(job, self.lecture.val)),
            asked=rows,
            scores=course.scores,
            best=course.best,
            rounds=last.round,
            losses={record.round: record.loss for record in last.records},
            seconds=sum(record.seconds for record in last.records),
            bytes_up=sum(record.bytes_up for record in last.records),
            bytes_down=sum(record.bytes_down for record in last.records),
            weights=weights,
            own={site: found for site, (found, _) in own.items()},
            val=val,
        )

    def _validated(self, job: Job, weights: Weights) -> Answers:
        """Return what a classifier answers for validation images, where there are any."""
        if must_finetune(job.run).task.name != "classification" or not len(self.lecture.val):
            return {}
        exam = self._exam(job, self.lecture.val)
        return self.judge.answers(self._model(job, weights), exam)

    def _examined(self, job: Job, weights: Weights, *, skip: bool) -> Heard:
        """Return the score on the validation images of all sites, as if they were one's."""
        if skip or not len(self.lecture.val):
            return {}
        exam = self._exam(job, self.lecture.val)
        found = score(self.judge, self.judge.answers(self._model(job, weights), exam), exam)
        return {HERE: (found, len(self.lecture.val))}

    def _answers(self, job: Job, weights: Weights, asked: Rows, round: int) -> tuple[Answers, Rows]:
        if must_finetune(job.run).head == "shared":
            exam = self._exam(job, asked)
            return self.judge.answers(self._model(job, weights), exam), asked
        return stacked(list(self._by_site(job, weights, asked, round).values()))

    def _by_site(
        self, job: Job, weights: Weights, asked: Rows, round: int, *, counted: bool = False
    ) -> Mapping[str, tuple[Answers, Rows]]:
        """Return what each site answers for its own test images, which are named with it."""
        where = self.lecture.test_sites[np.searchsorted(self.lecture.test, asked)]
        found = {}
        for site, learned in job.sites.items():
            ours, local = asked[where == site], must_finetune(job.run).head == "local"
            if len(ours):
                whole = {**weights, **(own_weights(job, site, round) if local else {})}
                exam = replace(self._exam(job, ours, learned), counted=counted)
                found[site] = self.judge.answers(self._model(job, whole), exam), ours
        return found

    def _exam(self, job: Job, asked: Rows, learned: Rows | None = None) -> Exam:
        every = np.sort(np.concatenate(list(job.sites.values())))
        return Exam(
            run=job.run,
            images=self.lecture.images,
            learned=every if learned is None else learned,
            asked=asked,
            device=choose_device(job.run.train.device),
        )

    def _model(self, job: Job, weights: Weights) -> FineTask:
        model = build_model(job.run, job.seed)
        if not isinstance(model, FineTask):
            raise ConfigError(["stage is pretrain: write stage: finetune."])
        load_weights(model, weights)
        return model.to(choose_device(job.run.train.device)).eval()


def own_weights(job: Job, site: str, round: int) -> dict[str, Tensor]:
    """Return what a simulated site kept to itself after *round*."""
    keepsake = Keepsake(
        folder=site_folder(job.folder, site), digest=job.digest, keep=1, durable=False
    )
    start = "local/"
    state = keepsake.load(before=round + 1)
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}


def stacked(parts: Sequence[tuple[Answers, Rows]]) -> tuple[Answers, Rows]:
    """Return answers for several sets of images as one, in the order of their rows.

    What not all sets have an answer to is left out: distances in mm, where one tells no spacing.
    """
    rows = np.concatenate([asked for _, asked in parts])
    order = np.argsort(rows, kind="stable")
    names = [name for name in parts[0][0] if all(name in answers for answers, _ in parts)]
    return {name: np.concatenate([a[name] for a, _ in parts])[order] for name in names}, rows[order]


def joined(found: Sequence[Arm]) -> Arm:
    """Return the arms of single sites as one."""
    answers, rows = stacked([(arm.answers, arm.asked) for arm in found])
    return Arm(
        answers=answers,
        asked=rows,
        scores={},
        best=max(arm.best for arm in found),
        rounds=max(arm.rounds for arm in found),
        losses={},
        seconds=sum(arm.seconds for arm in found),
        bytes_up=0,
        bytes_down=0,
    )


def study_of(lecture: Lecture) -> Mapping[str, str]:
    """Return what a folder of this study is known by."""
    return {"run": digest(dump(lecture.run)), "images": lecture.images.digest}


def say_notes(lecture: Lecture, console: Console) -> None:
    """Print what a reader should know of the images."""
    for note in lecture.notes:
        console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)
