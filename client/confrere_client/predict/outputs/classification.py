"""Classes: the probability of each, a row an image.

Shapes: B images, K classes.
"""

import numpy as np

from confrere_client.finetune.classification import answers
from confrere_client.predict.desk import Desk
from confrere_client.predict.table import REAL, TEXT


def write(desk: Desk) -> None:
    """Write ``answers``: id, the likeliest class where they are exclusive, and p(CLASS) of each."""
    classes = desk.task.classes
    several = desk.network.finetune.task.knobs.get("kind") == "multilabel"
    columns = {f"p({name})": REAL for name in classes}
    likeliest = {} if several else {"likeliest": TEXT}
    table = desk.table("answers", {"id": TEXT, **likeliest, **columns})
    for batch in desk.batches(desk.place(desk.order.source)):
        scores_BK = answers(desk.task, desk.exam(batch))["scores_NK"]
        places = np.argmax(scores_BK, axis=1)
        table.add(
            {
                "id": batch.names,
                "likeliest": [classes[place] for place in places],
                **dict(zip(columns, np.asarray(scores_BK, np.float32).T, strict=True)),
            }
        )
