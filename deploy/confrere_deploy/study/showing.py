"""Pictures for the report: a map of the features, and what augmentation does to a few images.

Shapes: N images, F features, R rows, V views, C channels, Y X pixels.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_common.augment import intensity
from confrere_common.augment.pipeline import augmentation, normalise
from confrere_common.config import Run
from confrere_common.model import input_of
from confrere_deploy.report.pictures import Pictures
from confrere_deploy.study.measure import Exam, Features

MAPPED = 1000
"""Images on the map at most."""

ROWS, VIEWS = 5, 4


def pictures(
    run: Run, exam: Exam, sites: Mapping[str, NDArray[np.int64]], features: Features
) -> Pictures:
    """Return the map of test images (of trained images without a test) and augmented samples."""
    catalog = exam.images.catalog
    pool = exam.holdout.test if len(exam.holdout.test) else np.concatenate(list(sites.values()))
    rows = pool[np.linspace(0, len(pool) - 1, min(MAPPED, len(pool))).astype(int)]
    places, how = flatten(features[rows])
    return Pictures(
        embedding_N2=places,
        classes=catalog.labels[rows] if catalog.classes else None,
        class_names=catalog.classes,
        sites=catalog.sites[rows] if any(catalog.sites[rows]) else None,
        projection=how,
        samples=samples(run, exam.images, np.concatenate(list(sites.values()))),
    )


def flatten(features_NF: Features) -> tuple[NDArray[np.float32], str]:
    """Return a place on a map for each image, and how it was found: t-SNE, or PCA for a few."""
    # Imported here: a study needs them once, at its end, and they take seconds to load.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = features_NF.shape
    if count < 3 or width < 2:
        return np.zeros((count, 2), np.float32), "too few images for a map"
    centred = features_NF - features_NF.mean(axis=0)
    reduced = PCA(n_components=min(30, count - 1, width), random_state=0).fit_transform(centred)
    if count < 30 or float(np.abs(reduced).max()) < 1e-6:
        return reduced[:, :2].astype(np.float32), "PCA"
    perplexity = min(30.0, (count - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0)
    return placed.fit_transform(reduced).astype(np.float32), "t-SNE"


def samples(run: Run, images: Images, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return a few images, each beside augmented views of it, shape (R, V, Y, X, C)."""
    some = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int)]
    stored = images.batch(some)
    channels, size = input_of(run)
    augment = augmentation(run.augment, channels=channels, size=size)
    generator = torch.Generator().manual_seed(run.seeds[0])
    views = [normalise(stored), *(augment(stored, generator) for _ in range(VIEWS - 1))]
    stacked_RVCYX = torch.stack([_slice(view) for view in views], dim=1)
    pixels = (stacked_RVCYX * intensity.STD + intensity.MEAN).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).movedim(2, -1).numpy()


def _slice(images_BCZYX: torch.Tensor) -> torch.Tensor:
    """Return a volume's middle slice; an image as it is."""
    return (
        images_BCZYX[:, :, images_BCZYX.shape[2] // 2] if images_BCZYX.ndim == 5 else images_BCZYX
    )
