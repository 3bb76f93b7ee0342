"""Boxes: what is in each and how surely, in pixels of the image as its source has it.

Shapes: Q boxes kept of an image, D axes in the order X Y [Z].
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.boxes import unfitted
from confrere_client.finetune.detection import answers
from confrere_client.predict.desk import Desk
from confrere_client.predict.table import REAL, TEXT, WHOLE


def write(desk: Desk) -> None:
    """Write ``answers``: id, how many boxes, the surest one's score; and ``boxes``, a row a box.

    Of a box: id, class, score, low and high corner along x y [z], an image's surest first. What
    overlaps another box of its class by half stands for the same thing, and is left out.
    """
    axes = "xyz"[: len(desk.network.card.size)]
    corners = [f"{axis}{end}" for end in (0, 1) for axis in axes]
    whole = desk.table("answers", {"id": TEXT, "boxes": WHOLE, "surest": REAL})
    columns = {"id": TEXT, "class": TEXT, "score": REAL, **dict.fromkeys(corners, REAL)}
    each = desk.table("boxes", columns)
    for batch in desk.batches(desk.place(desk.order.source)):
        found_NQ = np.asarray(answers(desk.task, desk.exam(batch))["found_NQ"], np.float64)
        for record, sides, found in zip(batch.records, batch.sides, found_NQ, strict=True):
            rows = list(_boxes(found, sides, desk))
            scores = [score for _, score, _ in rows]
            surest = max(scores, default=None)
            whole.add({"id": [record.name], "boxes": [len(rows)], "surest": [surest]})
            placed = zip(*(box for *_, box in rows), strict=True) if rows else ([] for _ in corners)
            each.add(
                {
                    "id": [record.name] * len(rows),
                    "class": [name for name, *_ in rows],
                    "score": scores,
                    **dict(zip(corners, placed, strict=True)),
                }
            )


def _boxes(
    found_Q: NDArray[np.float64], sides: Sequence[int], desk: Desk
) -> Iterator[tuple[str, float, tuple[float, ...]]]:
    """Yield class, score and corners of what was found; not what lies beside the image."""
    frame, shape = tuple(sides)[::-1], desk.network.card.size[::-1]
    for row in found_Q[np.isfinite(found_Q).all(axis=1)]:
        *corners, score, kind = map(float, row)
        box = unfitted(corners, frame, shape)
        axes = len(frame)
        if all(low < high for low, high in zip(box[:axes], box[axes:], strict=True)):
            yield desk.task.classes[int(kind)], score, box
