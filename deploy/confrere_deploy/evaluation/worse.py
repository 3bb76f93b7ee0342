"""Test images as corruptions leave them, what finished networks answer, and the curves of it.

Each corruption and severity of a network is a cell of its own: it is not done twice.

Shapes: N images, B rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.evaluation.corruptions import SEVERITIES, corrupted, robustness, suite
from confrere_client.evaluation.paired import weighed_figure
from confrere_client.finetune.judge import Judge
from confrere_common.storage import atomic_write
from confrere_deploy.evaluation import figures, schema
from confrere_deploy.evaluation.cells import (
    CELLS,
    Cell,
    Finished,
    Workshop,
    exam,
    loaded,
    stored,
)
from confrere_deploy.evaluation.parts import Entry
from confrere_deploy.report.schema import Figure
from confrere_deploy.study.finetuning import Lecture


@dataclass(frozen=True, kw_only=True, eq=False)
class Worse(Images):
    """Images of which some are corrupted; what was learned from stays as it is."""

    corruption: str
    severity: int
    asked: NDArray[np.int64]
    """Rows that are corrupted."""

    def batch(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return a copy of *rows*, worse where they are asked about."""
        return self._worse(super().batch(rows), rows)

    def whole(self, row: int) -> torch.Tensor:
        """Return a copy of all of one image, worse if it is asked about."""
        whole = super().whole(row)
        return self._worse(whole, np.array([row])) if self.cropped else whole

    def _worse(self, images: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        mine = np.isin(rows, self.asked)
        if mine.any():
            some = torch.from_numpy(mine)
            worse = corrupted(images[some], self.corruption, self.severity, rows[mine])
            images[some] = worse
        return images


def worse(images: Images, corruption: str, severity: int, asked: NDArray[np.int64]) -> Worse:
    """Return the same images, those of *asked* corrupted."""
    plain: dict[str, Any] = {field.name: getattr(images, field.name) for field in fields(Images)}
    return Worse(**plain, corruption=corruption, severity=severity, asked=asked)


def names_of(lecture: Lecture) -> tuple[str, ...]:
    """Return the corruptions of the run's modality; DataError where it has no suite."""
    images = lecture.images
    modality = lecture.run.augment.modality
    return suite(modality, channels=images.channels, dims=images.dims)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Lets finished networks answer for worse images."""

    workshop: Workshop
    judge: Judge

    def answered(self, cell: Cell, name: str, severity: int) -> Finished:
        """Return what a finished cell's network answers, now or earlier."""
        path = self.workshop.out / CELLS / f"{cell.name}~{name}-{severity}.npz"
        found = loaded(path)
        if found is None:
            found = self._asked(cell, name, severity)
            atomic_write(path, stored(found))
        return found

    def _asked(self, cell: Cell, name: str, severity: int) -> Finished:
        lecture = cell.lecture
        changed = replace(lecture, images=worse(lecture.images, name, severity, lecture.test))
        answers = self.judge.answers(self.workshop.task(cell), exam(changed, lecture.test))
        return Finished(
            answers=answers, asked=lecture.test, scores={}, losses={}, best=0, rounds=0, seconds=0.0
        )

    def curves(self, one: Entry, cells: Sequence[Cell]) -> Iterator[tuple[str, int, Any]]:
        """Yield corruption, severity and the answers of all seeds as they come."""
        for name in names_of(one.lecture):
            for severity in SEVERITIES:
                yield name, severity, [self.answered(cell, name, severity) for cell in cells]


def summed_up(
    one: Entry,
    judge: Judge,
    clean: Sequence[Finished],
    found: Mapping[tuple[str, int], Sequence[Finished]],
) -> schema.Robustness:
    """Return the curves of one arm and their summary."""
    told = partial(_figure, one.lecture, judge)
    start = told(clean)
    names = dict.fromkeys(name for name, _ in found)
    curves: dict[str, tuple[Figure | None, ...]] = {
        name: (start, *(told(found[name, severity]) for severity in SEVERITIES)) for name in names
    }
    means = {
        name: [figure.mean if figure is not None else float("nan") for figure in values]
        for name, values in curves.items()
    }
    known = {name: values for name, values in means.items() if np.isfinite(values).all()}
    sum_of = robustness(known) if known else None
    return schema.Robustness(
        arm=one.name,
        curves=curves,
        error=sum_of.error if sum_of else None,
        degradation=sum_of.degradation if sum_of else None,
        worst=sum_of.worst if sum_of else "",
    )


def _figure(lecture: Lecture, judge: Judge, seeds: Sequence[Finished]) -> Figure | None:
    rows = seeds[0].asked
    each = figures.leading(lecture, judge, seeds, rows)
    return figures.plain(weighed_figure(each, lecture.images.catalog.patients[rows]))
