"""Outlines of truth and answer on the best, the median and the worst cases by Dice.

Shapes: N images, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.segmentation import over_classes
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.pictures.gallery import Gallery, Row, chosen
from confrere_client.finetune.pictures.paint import CALLED, enlarged, grey, slice_of, with_mask
from confrere_client.finetune.segmentation import found_masks
from confrere_common.task import FineTask

NOTE = (
    "Best, median and worst test cases by mean Dice. Of a volume, the slice that holds most of "
    "truth and answer together."
)


def galleries(task: FineTask, exam: Exam, answers: Answers) -> Sequence[Gallery]:
    """Return overlays: image, truth, answer."""
    dice_N = over_classes(np.asarray(answers["dice_NC"], np.float64), answers["empty_NC"])
    cases = chosen(dice_N)
    if not cases:
        return ()
    rows = exam.asked[[place for _, place in cases]]
    images = exam.images
    shown = tuple(
        Row(
            title=f"{kind}: Dice {dice_N[place]:.3f}",
            cells=_cells(
                images.whole(int(row))[0].numpy(),
                images.whole_mask(int(row)).astype(np.int64),
                found_masks(task, exam, np.array([row]))[0],
            ),
        )
        for row, (kind, place) in zip(rows, cases, strict=True)
    )
    names = enumerate(task.classes)
    key = ", ".join(f"{name}: {CALLED[number % len(CALLED)]}" for number, name in names)
    return (Gallery(title="Overlays", note=f"{NOTE} Colours: {key}.", rows=shown),)


def _cells(
    image_CZYX: NDArray[np.generic], truth_ZYX: NDArray[np.int64], found_ZYX: NDArray[np.int64]
) -> tuple[tuple[str, NDArray[np.uint8]], ...]:
    place = None
    if truth_ZYX.ndim == 3:
        filled = (truth_ZYX > 0).sum(axis=(1, 2)) + (found_ZYX > 0).sum(axis=(1, 2))
        place = int(filled.argmax()) if filled.any() else None
    picture = grey(slice_of(image_CZYX, place))
    due, got = (slice_of(mask[None], place)[0].astype(np.int64) for mask in (truth_ZYX, found_ZYX))
    return (
        ("image", enlarged(picture)[0]),
        ("truth", with_mask(picture, due)),
        ("answer", with_mask(picture, got)),
    )
