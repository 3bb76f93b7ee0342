"""Test images beside the images of the index that lie nearest; never of the same patient.

Shapes: N images, G images of the index, F features.
"""

from collections.abc import Sequence

import numpy as np

from confrere_client.finetune.judge import Answers, Exam, collected
from confrere_client.finetune.pictures.gallery import Gallery, Picture, Row, chosen
from confrere_client.finetune.pictures.paint import RIGHT, WRONG, framed, grey, slice_of
from confrere_common.task import FineTask

NEAREST = 5
NOTE = (
    "Each row: a test image and the five images of the index nearest to it by cosine, none of its "
    "own patient. Green frame: the same class; vermilion: another. Ordered by precision."
)


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
    """Return queries with what they find."""
    cases = chosen(np.asarray(answers["P@5"], np.float64))
    if not cases:
        return ()
    rows = exam.asked[[place for _, place in cases]]
    asked_NF = collected(exam, task.predict, rows)
    index_GF = collected(exam, task.predict, exam.learned)
    catalog = exam.images.catalog
    close_NG = asked_NF @ index_GF.T
    close_NG[catalog.patients[rows][:, None] == catalog.patients[exam.learned]] = -np.inf
    shown = []
    for (kind, _), row, close_G in zip(cases, rows, close_NG, strict=True):
        order = np.argsort(-close_G, kind="stable")
        near = [int(exam.learned[g]) for g in order[:NEAREST] if np.isfinite(close_G[g])]
        cells = [_cell(exam, other, int(row)) for other in near]
        query = (f"asked: {_label(exam, int(row))}", framed(_picture(exam, int(row)), (128,) * 3))
        shown.append(Row(title=kind, cells=(query, *cells)))
    return (Gallery(title="Nearest neighbours", note=NOTE, rows=tuple(shown)),)


def _cell(exam: Exam, row: int, asked: int) -> tuple[str, Picture]:
    labels = exam.images.catalog.labels
    colour = RIGHT if labels[row] == labels[asked] else WRONG
    return _label(exam, row), framed(_picture(exam, row), colour)


def _picture(exam: Exam, row: int) -> Picture:
    return grey(slice_of(exam.images.batch(np.array([row]))[0], None))


def _label(exam: Exam, row: int) -> str:
    catalog = exam.images.catalog
    label = int(catalog.labels[row])
    return catalog.classes[label] if label >= 0 else "no label"
