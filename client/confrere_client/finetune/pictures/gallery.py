"""The contract of pictures: rows of cases that show what a task answered beside what is true.

A task without a module here has no pictures. They are images of patients: for local pages only.

Shapes: Y X pixels, C = 3 channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from confrere_client.finetune.judge import Answers, Exam
from confrere_common.task import FineTask

Picture: TypeAlias = NDArray[np.uint8]
"""Shape (Y, X, 3)."""

EACH = 2
"""Cases of a kind that are shown."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case."""

    title: str
    cells: tuple[tuple[str, Picture], ...]
    """What a picture shows, and the picture."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cases of one kind."""

    title: str
    note: str
    """How to read it, and what it does not say."""

    rows: tuple[Row, ...]


class Painter(Protocol):
    """A module ``finetune/pictures/<task>.py``."""

    def galleries(self, task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
        """Return pictures of cases among those asked about; the task is in evaluation mode."""


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
    """Return what there is to see of a task's answers; nothing where no painter knows the task."""
    name = exam.run.finetune.task.name if exam.run.finetune is not None else ""
    module = f"{__package__}.{name}"
    if not name or find_spec(module) is None:
        return ()
    return cast(Painter, import_module(module)).galleries(task, exam, answers)


def chosen(scores_N: NDArray[np.float64]) -> list[tuple[str, int]]:
    """Return places of the best, the median and the worst cases; NaN is no case.

    >>> chosen(np.array([0.1, 0.9, 0.5]))
    [('best', 1), ('median', 2), ('worst', 0)]
    """
    order = np.argsort(-scores_N, kind="stable")
    order = order[np.isfinite(scores_N[order])]
    middle = max(0, (len(order) - EACH) // 2)
    kinds = {
        "best": order[:EACH], "worst": order[::-1][:EACH], "median": order[middle : middle + EACH]
    }  # fmt: skip
    found: dict[int, str] = {}
    for kind, places in kinds.items():
        for place in places:
            found.setdefault(int(place), kind)
    rank = ["best", "median", "worst"]
    return sorted(
        ((kind, place) for place, kind in found.items()), key=lambda pair: rank.index(pair[0])
    )
