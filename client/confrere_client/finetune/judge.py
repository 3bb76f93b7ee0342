"""The contract of a judge: what a task answers for test images, and what these answers are worth.

Answers are arrays whose first axis is the image's, so that they can be kept and judged again; a
judged figure is a function of how often each image counts (``evaluation.paired.Weighed``), so that
every task gets intervals over patients and paired tests between arms in the same way.

Shapes: N images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.data.images import Images
from confrere_client.device import arithmetic, at_once
from confrere_client.evaluation.paired import Weighed
from confrere_common.augment.pipeline import normalise
from confrere_common.config import Run, Train
from confrere_common.model import input_of
from confrere_common.task import FineTask

Answers: TypeAlias = Mapping[str, NDArray[Any]]
Rows: TypeAlias = NDArray[np.int64]
Features: TypeAlias = Callable[[Rows], NDArray[np.float32]]
"""Rows -> features that no label has touched, (B, F)."""

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What a task is judged on, and how it is computed."""

    run: Run
    images: Images
    learned: Rows
    """Images that the task learned from, in *taught* where that is given: an index to search, or
    what is normal."""

    asked: Rows
    """Images that it is asked about; none of their patients is among those learned from."""

    device: torch.device

    counted: bool = False
    """Whether answers are only to be counted for a coordinator: what no count is made of may be
    left out of them."""

    taught: Images | None = None
    """Where the images lie that were learned from, where that is another data set than *images*.
    Patients' numbers of the two have nothing to do with each other."""

    @property
    def reference(self) -> "Exam":
        """Return the exam that asks about the images that were learned from."""
        images = self.images if self.taught is None else self.taught
        return replace(self, images=images, asked=self.learned, taught=None)


class Judge(Protocol):
    """A module ``finetune/<task>.py``."""

    HEADLINE: str
    """The figure that a best round is chosen by and arms are compared by; higher is better."""

    def by_probe(self, features: Features, exam: Exam, val: Rows) -> Answers | None:
        """Return what the least that can be learned on fixed features answers; None if nothing."""

    def answers(self, task: FineTask, exam: Exam) -> Answers:
        """Return what *task* answers; its model is in evaluation mode on the exam's device."""

    def figures(self, answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
        """Return name -> figure of answers, a function of how often each image counts."""

    def ranked(self, answers: Answers) -> Answers:
        """Return answers that may stand in one list with another network's, for the headline.

        Where images are ranked against each other, scores are places within the network's own list.
        """


def judge_of(run: Run) -> Judge:
    """Return the judge of the run's task."""
    name = run.finetune.task.name if run.finetune is not None else ""
    return cast(Judge, import_module(f"confrere_client.finetune.{name}"))


def asked_in_batches(exam: Exam, rows: Rows | None = None) -> Iterator[tuple[Rows, Tensor]]:
    """Yield rows and their normalised images on the device, in the run's precision."""
    every = exam.asked if rows is None else rows
    batch = min(BATCH, at_once(input_of(exam.run)[1]))
    for start in range(0, len(every), batch):
        some = every[start : start + batch]
        yield some, normalise(exam.images.batch(some).to(exam.device))


@torch.inference_mode()
def collected(
    exam: Exam, answer: Callable[[Tensor], Tensor], rows: Rows | None = None
) -> NDArray[np.float32]:
    """Return what *answer* gives for all images asked about, float32 on the CPU."""
    train: Train = exam.run.train
    with arithmetic(train, exam.device):
        found = [answer(images).float().cpu() for _, images in asked_in_batches(exam, rows)]
    return cast(NDArray[np.float32], torch.cat(found).numpy())


def both(judge: Judge, ours: Answers, theirs: Answers, exam: Exam) -> Weighed:
    """Return the headline figure of two networks' answers in one list, ours before theirs.

    It weighs 2 N answers: what ``evaluation.paired.swap_test`` swaps patients in.
    """
    mine, other = judge.ranked(ours), judge.ranked(theirs)
    answers = {name: np.concatenate([mine[name], other[name]]) for name in mine.keys() & other}
    twice = replace(exam, asked=np.concatenate([exam.asked, exam.asked]))
    return judge.figures(answers, twice)[judge.HEADLINE]


def score(judge: Judge, answers: Answers, exam: Exam) -> float:
    """Return the headline figure of answers, each image counting once; NaN where undefined."""
    once_1N = np.ones((1, len(exam.asked)))
    return float(judge.figures(answers, exam)[judge.HEADLINE](once_1N)[0])
