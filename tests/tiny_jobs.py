"""A job of two sites with images of noise: a federation that an engine carries in a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_runs import SIDE, tiny_run

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_deploy.engine import Job

SITES: Mapping[str, range] = {"north": range(10), "south hill": range(10, 24)}


def noise_job(folder: Path, **given: Any) -> Job:
    """Return the job that keeps its state in *folder*: equal, whoever makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        run=tiny_run(train={"steps_per_round": 1}),
        seed=0,
        images=_images(folder / "pixels.npy"),
        sites={site: np.array(rows) for site, rows in SITES.items()},
        folder=folder,
        observe=given.pop("observe", lambda _: None),
        watch=lambda *_: None,
        **given,
    )


def _images(path: Path) -> Images:
    if not path.exists():
        shape = (24, 1, SIDE, SIDE)
        np.save(path, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    pixels = np.load(path, mmap_mode="r")
    return Images(pixels=pixels, catalog=catalog_of([]), skipped=(), digest="noise")
