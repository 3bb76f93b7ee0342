"""How much of its start a fine-tuned encoder still uses, map by map: CKA before and after.

After the robustness protocol of SMIT's authors (https://arxiv.org/abs/2405.08657), who read from
it that early maps of what was pre-trained widely are kept. An encoder that started at random stands
beside it: maps that hardly moved from random weights are no sign that a start was worth anything.

Shapes: N images, F features.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.finetune.judge import Exam, collected
from confrere_client.measure.likeness import cka
from confrere_common.encoder import Encoder
from confrere_deploy.evaluation import schema
from confrere_deploy.evaluation.cells import Cell, Workshop, exam, task_with
from confrere_deploy.evaluation.parts import Entry

AT_MOST = 1000
"""Test images that are looked at: the pairs of all must fit into memory."""


def reused(one: Entry, cells: Sequence[Cell], workshop: Workshop) -> schema.Reuse:
    """Return how alike an arm's maps are before and after fine-tuning, on test images."""
    test = one.lecture.test
    paper = exam(one.lecture, test[:: max(1, -(-len(test) // AT_MOST))])
    seeds = [_of_seed(cell, workshop, paper) for cell in cells]
    encoder = task_with(cells[0], one.lecture.warm).encoder
    names = [f"map, stride {stride}" for stride in encoder.map_strides]
    return schema.Reuse(
        arm=one.name,
        images=len(paper.asked),
        levels=tuple(
            schema.ReuseLevel(name=name, cka=tuple(map(_plain, values)))
            for name, values in zip([*names, "features"], zip(*seeds, strict=True), strict=True)
        ),
    )


def _of_seed(cell: Cell, workshop: Workshop, paper: Exam) -> list[float]:
    before, after = (
        _levels(task.encoder, paper)
        for task in (task_with(cell, cell.lecture.warm), workshop.task(cell))
    )
    return [cka(old, new) for old, new in zip(before, after, strict=True)]


def _levels(encoder: Encoder, paper: Exam) -> list[NDArray[np.float32]]:
    """Return the means over each map's places, finest first, then the features, each (N, F)."""
    found = collected(paper, partial(_told, encoder))
    widths = [*encoder.map_channels, encoder.width]
    return list(np.split(found, np.cumsum(widths)[:-1], axis=1))


def _told(encoder: Encoder, images_BCZYX: Tensor) -> Tensor:
    maps = encoder.maps(images_BCZYX)
    return torch.cat([*(one.flatten(2).mean(2) for one in maps), encoder.pool(maps[-1])], dim=1)


def _plain(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
