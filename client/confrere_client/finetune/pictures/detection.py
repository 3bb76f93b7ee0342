"""True and found boxes on the best, the median and the worst cases by F1 at one overlap.

Shapes: N images, Q boxes of an image, D axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.detection import iou
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.lesson import Lesson
from confrere_client.finetune.pictures.gallery import Gallery, Row, chosen
from confrere_client.finetune.pictures.paint import (
    CALLED,
    HUES,
    enlarged,
    grey,
    slice_of,
    with_boxes,
)
from confrere_common.errors import DataError
from confrere_common.task import FineTask

SHOWN_SCORE = 0.3
"""Surer boxes are drawn, and counted in the F1 that orders the cases."""
SAME = 0.5


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:  # noqa: ARG001
    """Return overlays: image, true boxes, found boxes."""
    if exam.run.finetune is None:
        raise DataError("the run fine-tunes nothing: it has no section finetune.")
    lesson = Lesson(images=exam.images, rows=exam.asked, finetune=exam.run.finetune)
    truth = [_sound(one) for one in lesson.known("boxes", np.arange(len(exam.asked))).numpy()]
    found = [_sure(_sound(one)) for one in np.asarray(answers["found_NQ"], np.float64)]
    scores_N = np.array([_f1(due, got) for due, got in zip(truth, found, strict=True)])
    names = exam.run.finetune.classes or ()
    key = ", ".join(f"{name}: {CALLED[number % len(CALLED)]}" for number, name in enumerate(names))
    cases = chosen(scores_N)
    shown = tuple(
        Row(
            title=f"{kind}: F1 {scores_N[place]:.2f}, {len(truth[place])} true boxes",
            cells=_cells(exam, int(exam.asked[place]), truth[place], found[place]),
        )
        for kind, place in cases
    )
    note = (
        f"Found boxes of a score of {SHOWN_SCORE} and above. Best, median and worst test cases by "
        f"F1 at an overlap of {SAME}. Of a volume, the middle slice. Colours: {key}."
    )
    return (Gallery(title="Overlays", note=note, rows=shown),)


def _sound(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    whole = np.asarray(rows, np.float64)
    return whole[np.isfinite(whole).all(axis=1)]


def _sure(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return boxes and classes of what is sure enough; the score falls away."""
    kept = rows[rows[:, -2] >= SHOWN_SCORE]
    return np.delete(kept, -2, axis=1)


def _f1(due: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    """Return F1 of boxes of equal class, each true one found once; 1 where there is nothing."""
    if not len(due) + len(got):
        return 1.0
    close = iou(got[:, :-1], due[:, :-1]) * (got[:, None, -1] == due[None, :, -1])
    hits = 0
    for overlaps in close:
        if len(due) and overlaps.max() >= SAME:
            hits += 1
            close[:, int(overlaps.argmax())] = -1
    return 2 * hits / (len(due) + len(got))


def _cells(
    exam: Exam, row: int, due: NDArray[np.float64], got: NDArray[np.float64]
) -> tuple[tuple[str, NDArray[np.uint8]], ...]:
    image_CZYX = exam.images.batch(np.array([row]))[0].numpy()
    picture = grey(slice_of(image_CZYX, None))
    middle = image_CZYX.shape[1] // 2 if image_CZYX.ndim == 4 else None
    return (
        ("image", enlarged(picture)[0]),
        ("truth", _drawn(picture, due, middle)),
        ("answer", _drawn(picture, got, middle)),
    )


def _drawn(
    picture: NDArray[np.uint8], boxes: NDArray[np.float64], middle: int | None
) -> NDArray[np.uint8]:
    axes = (boxes.shape[1] - 1) // 2
    if middle is not None:
        boxes = boxes[(boxes[:, 2] <= middle) & (boxes[:, axes + 2] > middle)]
    flat = boxes[:, [0, 1, axes, axes + 1]]
    return with_boxes(picture, flat, [HUES[int(kind) % len(HUES)] for kind in boxes[:, -1]])
