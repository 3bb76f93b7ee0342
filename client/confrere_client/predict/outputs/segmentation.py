"""Label maps: the class of each voxel at the image's own size, and how many voxels each class has.

Shapes: K classes with background first, [Z] Y X voxels (Z only in 3-D).
"""

import numpy as np

from confrere_client.data.unfit import likeliest
from confrere_client.finetune.segmentation import probabilities
from confrere_client.predict.desk import Desk, file_name
from confrere_client.predict.maps import write_classes
from confrere_client.predict.table import TEXT, WHOLE

FOLDER = "masks"


def write(desk: Desk) -> None:
    """Write ``masks/``, and ``answers``: id, its file, spacing along [Z] Y X, voxels of each class.

    A network of crops answers for whole images, window by window.
    """
    place, folder = desk.place(desk.order.source), desk.folder(FOLDER)
    voxels = {f"voxels of {name}": WHOLE for name in desk.task.classes}
    table = desk.table("answers", {"id": TEXT, "file": TEXT, "spacing_mm": TEXT, **voxels})
    number = 0
    for batch in desk.batches(place, whole=desk.crops):
        for rows, probable in probabilities(desk.task, desk.exam(batch)):
            for row, found_KZYX in zip(map(int, rows), probable, strict=True):
                record, number = batch.records[row], number + 1
                classes = likeliest(found_KZYX, batch.sides[row])
                name = file_name(place, record.name, number)
                file = write_classes(folder / name, classes, record.spacing_mm)
                counts = np.bincount(classes.ravel(), minlength=len(voxels) + 1)[1:]
                spacing = " ".join(f"{step:g}" for step in record.spacing_mm)
                told = dict(zip(voxels, ([int(count)] for count in counts), strict=True))
                cells = {"id": [record.name], "file": [f"{FOLDER}/{file.name}"]}
                table.add({**cells, "spacing_mm": [spacing], **told})
