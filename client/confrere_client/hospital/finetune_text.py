"""A plan that fine-tunes as a doctor reads it: that labels are used, and what leaves of scores."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from confrere_client.finetune.lacking import lacking
from confrere_client.finetune.lesson import parts
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.registry import Registered, open_registered, printable
from confrere_common.config import Run
from confrere_common.errors import ConfrereError
from confrere_common.finetune import Finetune
from confrere_common.judged import evaluation_of
from confrere_common.model import task_of
from confrere_common.task import TASKS
from confrere_common.validated import VALIDATED, unchosen

Row = tuple[str, str]
"""A label and what it says."""

MARKS = {"label": "labels", "mask": "masks", "boxes": "boxes"}


def lets_evaluate(policy: Policy) -> bool:
    """Say whether counts of a model's scores may leave: the coordinator sees each site's own."""
    return policy.evaluation and not policy.require_secure_aggregation


def lets_validate(policy: Policy) -> bool:
    """Say whether the mean of scores may leave by which the coordinator chooses a round."""
    return lets_evaluate(policy) and VALIDATED in policy.metrics


def validates(run: Run, policy: Policy) -> bool:
    """Say whether the site may be asked after each round what the joined model scores."""
    return run.stage == "finetune" and not unchosen(run) and lets_validate(policy)


def learning(task: Finetune) -> Iterator[Row]:
    """Yield what would be learned, from what, and whence."""
    name = task.task.name
    marks = MARKS[TASKS.member(name).marks]
    yield "stage", f"finetune: your {marks} are used, and an encoder and a head learn from them"
    yield "task", f"{name}: {TASKS.caption(name)} Mode {task.mode}."
    share = "all of them" if task.labels == 1.0 else f"{task.labels} (a share of each class)"
    named = printable(", ".join(task.classes or ()), 300)
    yield f"{marks} used", f"{share}; classes: {named or 'none'}. Images without are not used."
    start = task.start_digest
    whence = f"an encoder with the SHA-256 {start[:16]}..." if start else "scratch"
    if task.start_decoder_digest:
        whence += f", and a decoder with {task.start_decoder_digest[:16]}..."
    yield "starts from", whence
    head = "stays here: the encoder alone is joined" if task.head == "local" else "leaves too"
    yield "head", f"{head}."


def lacks(task: Finetune, entry: Registered, policy: Policy) -> Iterator[Row]:
    """Yield which of the run's classes the hospital's data set lacks, where labels tell.

    Masks and boxes are read when the first round begins; of these the worker's log tells it.
    """
    marks = TASKS.member(task.task.name).marks
    if entry.only_scored:
        return
    if marks != "label":
        yield "classes you lack", f"looked up in your {MARKS[marks]} at the first round: worker.log"
        return
    try:
        labels = [r.label for r in open_registered(entry, policy.max_images).records()]
    except ConfrereError:  # what cannot be read is told when it is trained on
        return
    several = task.task.knobs.get("kind") == "multilabel"
    found = Counter(one for name in labels for one in (parts(name) if several else (name,)))
    counts_K = np.array([found[name] for name in task.classes or ()], np.int64)
    if said := " ".join(lacking(task, counts_K, "your data set")):
        yield "classes you lack", printable(said, 600)


GRADED = {
    "classification": "of each class the model scores",
    "segmentation": "with and without each structure have a Dice",
    "detection": "with and without a box of each class have a surest box",
    "anomaly": "that are normal, and that are not, look how normal beside yours that were learned "
    "from,",
    "retrieval": "of each class find how much of it nearest to them (P@5), among yours that were "
    "learned from,",
}
"""Task -> how its held-out images are counted."""


def _whole(run: Run, marks: str) -> str:
    """Return what is withheld besides: of the two sides of a structure one gives away the other."""
    task = task_of(run)
    if task is not None and task.normal is not None:
        return "; nothing where fewer are normal, or are not"
    several = task is not None and task.task.knobs.get("kind") == "multilabel"
    what = {"mask": "structure", "boxes": "class"}.get(marks, "finding" if several else "")
    return f"; nothing of a {what} that fewer have, or lack" if what else ""


def _held_out(run: Run, smallest: int, marks: str) -> str:
    whose = "each class's patients" if marks == "label" else f"the patients who have {MARKS[marks]}"
    return (
        f"patients whom your source marks 'test'; where it marks none, {run.data.test_share:.0%} "
        f"of {whose}, who are not trained on; but nobody of whom nothing could be told, as they "
        f"are fewer than {smallest} when the run begins here. Where the data set changes after "
        "that, nobody is scored any more"
    )


def scoring(run: Run, policy: Policy) -> Iterator[Row]:
    """Yield what leaves of the model's scores on held-out patients."""
    asked, task = evaluation_of(run), task_of(run)
    if asked is None or task is None:
        yield "leaves, of scores", "nothing: the run asks for no evaluation"
    elif not lets_evaluate(policy):
        yield (
            "leaves, of scores",
            "nothing: your policy (evaluation, require_secure_aggregation) lets none leave",
        )
    else:
        when = "after the last round"
        if asked.every is not None:
            when = f"after every {asked.every} rounds and the last"
        smallest = max(asked.min_cell, policy.min_cell)
        marks = TASKS.member(task.task.name).marks
        yield (
            "leaves, of scores",
            f"{when}: how many held-out images {GRADED[task.task.name]} in which range, "
            f"in cells of {smallest} patients or more, smaller ones joined or withheld"
            f"{_whole(run, marks)}. No single score, no name. Nothing is noised; of one model the "
            "site answers once.",
        )
        yield "held out", _held_out(run, smallest, marks)
        yield from _choosing(run, policy, smallest)


LEADING = {
    "classification": "area under the ROC curve",
    "segmentation": "Dice",
    "detection": "average precision",
    "anomaly": "area under the ROC curve",
    "retrieval": "share of a search's first five that is of its class (P@5)",
}
"""Task -> the mean by which a round is chosen."""


def _choosing(run: Run, policy: Policy, smallest: int) -> Iterator[Row]:
    """Yield what leaves so that the coordinator can choose the round that it publishes."""
    task, why = task_of(run), unchosen(run)
    if task is None or why:
        return
    label = "leaves, of validation"
    if not lets_validate(policy):
        yield label, f"nothing: your policy (metrics) has no {VALIDATED}"
        return
    yield (
        label,
        f"after every round: one {LEADING[task.task.name]}, to {policy.metric_digits} digits, over "
        f"{smallest} patients or more (of each class, where images are ranked), and how many "
        "images it is of. Nothing is noised; of one model the site answers once. They are patients "
        f"whom your source marks 'val'; where it marks none, {run.data.val_share:.0%} of those who "
        "are left, who are not trained on; nobody where these are too few",
    )
