"""How odd each image is, and a map of where.

By the network alone an image is scored by how badly its worst place is foretold. Beside the
hospital's own normal images it also gets the scores that lean on such, and how normal it looks
beside them: scanners differ, so that another hospital's threshold means nothing here.

Shapes: N images, [Z] Y X voxels (Z only in 3-D).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.cache import default_cache_dir
from confrere_client.data.images import Images, images_of
from confrere_client.data.unfit import unfitted
from confrere_client.finetune import anomaly
from confrere_client.finetune.judge import Rows
from confrere_client.finetune.segmentation import in_windows
from confrere_client.measure.intervals import Floats
from confrere_client.predict.asked import Batch
from confrere_client.predict.desk import Desk, file_name
from confrere_client.predict.maps import write_numbers
from confrere_client.predict.table import REAL, TEXT
from confrere_common.augment.pipeline import normalise
from confrere_common.errors import ConfigError, DataError

FOLDER = "maps"
BESIDE = ("unusual", "knn", "mahalanobis", "normality")
"""Scores that need normal images to be held against."""

ANYWHERE = "foretold anywhere"
"""The worst place of a whole image, where a network of crops scores the middle one."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The hospital's normal images, as the network sees them."""

    normal: anomaly.Normal
    scores_G: Floats


def write(desk: Desk) -> None:
    """Write ``maps/``, and ``answers``: id, its map's file, the leading score, every score."""
    leads = anomaly.leading(desk.network.run)
    if desk.order.normal is None and leads in BESIDE:
        raise ConfigError(
            [
                f"the network's score '{leads}' holds an image against normal ones, and a release "
                "has none: give your own with --normal (a folder, table or prepared data set)."
            ],
            "--normal",
        )
    beside = _beside(desk, desk.order.normal) if desk.order.normal is not None else None
    place, folder = desk.place(desk.order.source), desk.folder(FOLDER)
    names = ["foretold", *([ANYWHERE] if desk.crops else []), *(BESIDE if beside else ())]
    columns = {"id": TEXT, "file": TEXT, f"score ({leads})": REAL, **dict.fromkeys(names, REAL)}
    table, number = desk.table("answers", columns), 0
    for batch in desk.batches(place, whole=desk.crops):
        found, files = _scores(desk, batch, beside), []
        for record, map_ZYX in zip(batch.records, _maps(desk, batch), strict=True):
            number += 1
            if desk.crops:
                found[ANYWHERE] = np.array([map_ZYX.max()])
            name = file_name(place, record.name, number)
            file = write_numbers(folder / name, map_ZYX, record.spacing_mm)
            files.append(f"{FOLDER}/{file.name}")
        led = {f"score ({leads})": found[leads]}
        table.add({"id": batch.names, "file": files, **led, **found})


def _scores(desk: Desk, batch: Batch, beside: Beside | None) -> dict[str, Floats]:
    exam = desk.exam(batch)
    if beside is None:
        return {"foretold": anomaly.foretold(desk.task, exam)}
    found = anomaly.scores(desk.task, exam, beside.normal)
    normality_N = anomaly.beside(found[anomaly.leading(exam.run)], beside.scores_G)
    return {**found, "normality": normality_N}


def _maps(desk: Desk, batch: Batch) -> Iterator[NDArray[np.float32]]:
    """Yield how badly each place of an image is foretold, at the image's own size."""
    if desk.crops:
        for row in range(len(batch)):
            found = in_windows(desk.task, normalise(batch.images.whole(row)))[0, 0]
            yield np.asarray(found.cpu().numpy(), np.float32)
        return
    exam = desk.exam(batch)
    seen_NZYX = torch.from_numpy(anomaly.maps(desk.task, exam, exam.asked)).float()
    for seen_ZYX, sides in zip(seen_NZYX, batch.sides, strict=True):
        yield unfitted(seen_ZYX, sides).numpy()


def _beside(desk: Desk, path: Path) -> Beside:
    """Return what the hospital's own normal images have in common."""
    run, card = desk.network.run, desk.network.card
    images = images_of(
        desk.place(path).source,
        image_px=run.data.image_px,
        crop_px=run.data.crop_px,
        channels=card.channels,
        cache_dir=default_cache_dir(),
        progress=lambda done, total: desk.watch("normal images", done, total),
    )
    if images.dims != len(card.size):
        axes = len(card.size)
        raise DataError(f"--normal holds {images.dims}-D images, the network takes {axes}-D ones.")
    rows = _normal(images, str(desk.network.finetune.task.knobs["normal"]))
    exam = desk.exam_on(images, rows[:0], rows)
    return Beside(
        normal=anomaly.normal_of(desk.task, exam), scores_G=anomaly.usual_scores(desk.task, exam)
    )


def _normal(images: Images, name: str) -> Rows:
    """Return the images that are called normal, or have no label."""
    catalog = images.catalog
    others = [number for number, own in enumerate(catalog.classes) if own != name]
    rows = np.flatnonzero(~np.isin(catalog.labels, others))
    if not len(rows):
        known = ", ".join(catalog.classes)
        raise DataError(f"--normal holds no image that is '{name}', only {known}: bring others.")
    return rows
