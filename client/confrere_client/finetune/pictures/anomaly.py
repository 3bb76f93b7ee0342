"""Maps of what is odd, on the images that score oddest and least, with the truth where it is known.

Shapes: N images, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from confrere_client.finetune.anomaly import maps
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.pictures.gallery import Gallery, Row, chosen
from confrere_client.finetune.pictures.paint import enlarged, grey, slice_of, with_heat, with_mask
from confrere_common.task import FineTask

NOTE = (
    "How badly each place is foretold from normal images, one scale for all rows: bright is odd. "
    "Shown are the images that score highest, in the middle and lowest. Of a volume, the oddest "
    "slice. An odd place need not be ill."
)
KINDS = {"best": "oddest", "median": "in the middle", "worst": "least odd"}


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
    """Return heat on images, and masks beside it where they are known."""
    scores_N = np.asarray(answers["foretold"], np.float64)
    cases = chosen(scores_N)
    if not cases:
        return ()
    rows = exam.asked[[place for _, place in cases]]
    heat_NZYX = maps(task, exam, rows)
    top = float(np.quantile(heat_NZYX, 0.995))
    shown = tuple(
        Row(
            title=f"{KINDS[kind]}: score {scores_N[place]:.3g}, {_label(exam, int(row))}",
            cells=tuple(_cells(exam, int(row), heat, top)),
        )
        for (kind, place), row, heat in zip(cases, rows, heat_NZYX, strict=True)
    )
    return (Gallery(title="Maps of anomaly", note=NOTE, rows=shown),)


def _cells(
    exam: Exam, row: int, heat_ZYX: NDArray[np.float64], top: float
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    at = int(heat_ZYX.max(axis=(1, 2)).argmax()) if heat_ZYX.ndim == 3 else None
    picture = grey(slice_of(exam.images.batch(np.array([row]))[0], at))
    yield "image", enlarged(picture)[0]
    yield "map", with_heat(picture, heat_ZYX if at is None else heat_ZYX[at], top)
    if exam.images.has("mask")[row]:
        mask_ZYX = exam.images.known("mask", np.array([row]))[0].numpy()
        yield "truth", with_mask(picture, mask_ZYX if at is None else mask_ZYX[at])


def _label(exam: Exam, row: int) -> str:
    catalog = exam.images.catalog
    label = int(catalog.labels[row])
    return catalog.classes[label] if label >= 0 else "no label"
