"""How well features spread, told without labels: what betrays a collapsing encoder.

Nothing is centred first. What is centred forgets how small it was: 120 steps without negatives
drove a ResNet's features to one point (the views of an image alike to 1e-5), and its centred RankMe
was still 50, as with SimCLR (54), against 2.9 and 28 uncentred.

The price is that pooled ReLU features lie about one common direction from the start, so what is
usual at the end of a projector (alarms at RankMe < 0.1 min(n, d) and std √d < 0.3) would cry wolf.
Measured on dermatoscopy (HAM10000, 32 to 64 px), 64 to 1024 images, one or two seeds:

==================================================  ===========  ============
encoder                                             RankMe       std √d
==================================================  ===========  ============
untrained ResNet-18, 16 to 64 wide                  17 to 69     0.12 to 0.22
untrained ResNet-34, -50                            6.9 to 62    0.07 to 0.15
untrained ViT, 96 to 768 features                   12 to 25     0.50 to 0.82
SimCLR, 120 steps (ResNet-10, ViT)                  10 to 29     0.33 to 0.62
MAE and SimMIM, 60 and 120 steps (ResNet-18, ViT)   5.4 to 8.4   0.09 to 0.43
collapsed, 120 steps without negatives (both)       2.5 to 3.7   0.02 to 0.18
BYOL collapsed, AdamW at 1e-3, no warm-up (ResNet)  1.9          0.02
==================================================  ===========  ============

So RankMe's limit is held at 4, however many features there are, and that of the deviation is 0.03,
which only features that are nearly one point fall below.

Shapes: N images, F features.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Features: TypeAlias = NDArray[Any]

RANK_SHARE = 0.1
RANK_LIMIT = 4.0
STD_LIMIT = 0.03
FEWEST = 16
"""Images below which features are too few to call them collapsed."""


def rankme(features_NF: Features) -> float:
    """Return how many directions the features use, 1 to min(N, F); 0 of no image or no feature.

    The exponential of the entropy of the singular values' shares: https://arxiv.org/abs/2210.02885.
    Comparable between encoders of one kind on the same number of images, and no further.
    """
    values_R = np.linalg.svd(np.asarray(features_NF, np.float64), compute_uv=False)
    if not values_R.size or not values_R[0] > 0:
        return float(values_R.size > 0)
    shares_R = values_R / values_R.sum() + 1e-7
    return float(np.exp(-(shares_R * np.log(shares_R)).sum()))


def feature_std(features_NF: Features) -> float:
    """Return the mean deviation of unit-length features times √F: 1 if spread out, 0 if alike."""
    if not np.size(features_NF):
        return 0.0
    unit_NF = _unit(features_NF)
    return float(unit_NF.std(axis=0).mean() * np.sqrt(unit_NF.shape[1]))


def uniformity(features_NF: Features) -> float:
    """Return log E exp(-2 |a - b|²) over pairs of unit-length features: 0 if alike, -4 if spread.

    https://arxiv.org/abs/2005.10242. 0 of a single image.
    """
    if len(features_NF) < 2:
        return 0.0
    unit_NF = _unit(features_NF)
    rows, columns = np.triu_indices(len(unit_NF), 1)
    apart = np.maximum(2 - 2 * (unit_NF @ unit_NF.T)[rows, columns], 0)
    return float(np.log(np.exp(-2 * apart).mean()))


def alignment(one_NF: Features, two_NF: Features) -> float:
    """Return the mean squared distance of two views' unit-length features: 0 (alike) to 4."""
    if not np.size(one_NF):
        return 0.0
    return float(np.square(_unit(one_NF) - _unit(two_NF)).sum(axis=1).mean())


def dead_share(features_NF: Features) -> float:
    """Return the share of features that are the same on every image; 0 of fewer than two images."""
    if len(features_NF) < 2 or not np.size(features_NF):
        return 0.0
    features_NF = np.asarray(features_NF, np.float64)
    size_F = np.abs(features_NF).max(axis=0)
    return float((np.ptp(features_NF, axis=0) <= 1e-6 * size_F).mean())


def health(still_NF: Features, one_NF: Features, two_NF: Features) -> dict[str, float]:
    """Return every measure: of unchanged images, and of two views of the same few.

    Features that are not numbers give no measure at all: {}.
    """
    if not all(np.isfinite(given).all() for given in (still_NF, one_NF, two_NF)):
        return {}
    return {
        "rankme": rankme(still_NF),
        "feature_std": feature_std(still_NF),
        "uniformity": uniformity(still_NF),
        "alignment": alignment(one_NF, two_NF),
        "dead_share": dead_share(still_NF),
    }


def limits(images: int, width: int) -> dict[str, float]:
    """Return measure -> the least that is sound for so many images and features; {} if too few."""
    if images < FEWEST:
        return {}
    rank = min(RANK_SHARE * min(images, width), RANK_LIMIT)
    return {"rankme": rank, "feature_std": STD_LIMIT}


def crossed(metrics: Mapping[str, float], images: int, width: int) -> tuple[str, ...]:
    """Return the names of the measures that speak of a collapse."""
    return tuple(
        name for name, least in limits(images, width).items() if metrics.get(name, least) < least
    )


def alarms(metrics: Mapping[str, float], images: int, width: int) -> tuple[str, ...]:
    """Return a sentence for each measure that speaks of a collapse, with what to do."""
    least = limits(images, width)
    return tuple(
        f"{name} is {metrics[name]:.3g}, under {least[name]:.3g}: the features of {images} images "
        f"are nearly alike, the encoder is collapsing. {ADVICE}"
        for name in crossed(metrics, images, width)
    )


def misfits(metrics: Mapping[str, float], images: int) -> Iterator[str]:
    """Yield a sentence where the method's own figure says that its task does not fit the images.

    ``upright`` is how surely turns are told, ``dropped`` the share of views that teach nothing. It
    is asked of the last round: before, the task may only not be learned yet.
    """
    if images < FEWEST:
        return
    upright, dropped = metrics.get("upright", 1.0), metrics.get("dropped", 0.0)
    if upright < UPRIGHT_LIMIT:
        yield (
            f"upright is {upright:.2g}, under {UPRIGHT_LIMIT:g}: after all rounds turns are told "
            "hardly better than by chance, so these images have no upright (tissue, cells, skin), "
            "the augmentation turns them, or training was too short. Choose another method than "
            "rotation."
        )
    if dropped > DROPPED_LIMIT:
        yield (
            f"dropped is {dropped:.2g}, above {DROPPED_LIMIT:g}: of so many views Otsu's "
            "threshold gives a mask that is nearly empty or nearly full, and they teach nothing. "
            "Look at the views in the report; set method.polarity or method.channel, lower "
            "method.least, or choose another method than medsass."
        )


UPRIGHT_LIMIT = 0.15
"""Between 0 (chance) and 1: four turns are then told in 36 of 100 cases, and 25 is chance. Of 64
images chance alone stays under 0.1."""

DROPPED_LIMIT = 0.5
"""Share of views that teach nothing from which on most of the training is lost."""

ADVICE = "Lower train.lr, train with larger batches, or choose a method that cannot collapse (mae)."


def _unit(features_NF: Features) -> NDArray[np.float64]:
    features_NF = np.asarray(features_NF, np.float64)
    lengths_N1 = np.linalg.norm(features_NF, axis=1, keepdims=True)
    return np.asarray(features_NF / np.maximum(lengths_N1, 1e-12))
