"""What a frozen encoder's features tell of the labels: linear and nearest-neighbour probes.

Measures weigh images, so that an interval computes all its draws at once; their conventions:

- ``macro_auc``: one class against the rest (ties count half), the mean over the classes that have
  both positives and negatives in the test set; NaN when there is no such class.
- ``balanced_accuracy``: the mean recall over the classes that are present.

Shapes: N images, F features, K classes, D draws (rows of weights), R directions (at most N).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from confrere_client.measure.intervals import Measure
from confrere_common.errors import DataError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
"""C of the logistic regression, strongest regularisation first."""

FALLBACK_STRENGTH = 1e-2
"""C when no patient can be spared to choose it."""

FOLDS = 5
MAX_STEPS = 300
TOLERANCE = 3e-5
"""Largest slope at the end, in units of the curvature's root."""
BLOCK = 2048
"""Features standardised at once: bounds the memory that raw pixels take."""
NEIGHBOURS = (11, 20)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Features of labelled images, with whose they are; it may be empty."""

    features: NDArray[Any]
    labels: Integers
    patients: Integers


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Class probabilities on the test images, and how the probe came by them."""

    scores: Floats
    """Shape (N, K); a class that the training images lack has 0."""

    val_scores: Floats
    """The same on the validation images."""

    strength: float
    """C that was chosen."""

    converged: bool
    """Whether the fit behind the scores came to its end within its steps."""


def linear_probe(
    train: Labelled, val: Labelled, test_NF: NDArray[Any], classes: int
) -> LinearProbe:
    """Fit multinomial logistic regression on standardised features; C by macro AUC on *val*.

    Where *val* cannot rank any class, C is chosen on *train*, in folds that keep patients whole.
    Ties go to the stronger regularisation. DataError when a label is outside the classes or there
    is nothing to learn from.
    """
    _must_serve(train, val, classes)
    train_NR, others_NR = _rotated(train.features, np.concatenate([val.features, test_NF]))
    fits = dict(_path(train_NR, train.labels, others_NR, classes))
    mine = slice(0, len(val.labels))
    quality = {C: _quality(scores_NK[mine], val.labels) for C, (scores_NK, _) in fits.items()}
    if not np.isfinite(list(quality.values())).any():
        quality = _quality_in_folds(train_NR, train, classes)
    strength = max(STRENGTHS, key=lambda C: (quality[C], -C))
    scores_NK, converged = fits[strength]
    count = len(val.labels)
    return LinearProbe(
        scores=scores_NK[count:],
        val_scores=scores_NK[:count],
        strength=strength,
        converged=converged,
    )


def _must_serve(train: Labelled, val: Labelled, classes: int) -> None:
    if not len(train.labels):
        raise DataError("the probe has no labelled training image: label some.")
    for labels in (train.labels, val.labels):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()}, but must be from 0 to "
                f"{classes - 1}: leave out unlabelled images before probing."
            )


def _rotated(train_NF: NDArray[Any], others_NF: NDArray[Any]) -> tuple[Floats, Floats]:
    """Standardise by the training images, and turn to their principal axes, at most as many as N.

    Regularised weights lie in the span of the training images and a turn keeps their length, so the
    solution is the same (https://doi.org/10.1093/biostatistics/kxh010), found with N numbers for an
    image in place of the 12288 of a raw picture, and along axes that do not correlate.
    """
    if train_NF.shape[1] <= len(train_NF):
        train_NF, others_NF = _standardised(train_NF, others_NF)
        _, turn_FR = np.linalg.eigh(train_NF.T @ train_NF)
        return train_NF @ turn_FR, others_NF @ turn_FR
    gram_NN, cross_NN = _products(train_NF, others_NF)
    squares_R, turn_NR = np.linalg.eigh(gram_NN)
    kept_R = squares_R > 1e-11 * squares_R[-1]
    spread_R, turn_NR = np.sqrt(squares_R[kept_R]), turn_NR[:, kept_R]
    return turn_NR * spread_R, cross_NN @ (turn_NR / spread_R)


def _products(train_NF: NDArray[Any], others_NF: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return products of training images with each other, and of the others with them."""
    gram_NN = np.zeros((len(train_NF), len(train_NF)))
    cross_NN = np.zeros((len(others_NF), len(train_NF)))
    for start in range(0, train_NF.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        mine_NF, theirs_NF = _standardised(train_NF[:, block], others_NF[:, block])
        gram_NN += mine_NF @ mine_NF.T
        cross_NN += theirs_NF @ mine_NF.T
    return gram_NN, cross_NN


def _standardised(train_NF: NDArray[Any], others_NF: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return both with the training images' mean 0 and deviation 1; a constant feature is 0."""
    train_NF, others_NF = np.asarray(train_NF, np.float64), np.asarray(others_NF, np.float64)
    mean_F, std_F = train_NF.mean(axis=0), train_NF.std(axis=0)
    scale_F = np.where(std_F > 1e-9 * np.abs(mean_F) + 1e-300, std_F, np.inf)
    return (train_NF - mean_F) / scale_F, (others_NF - mean_F) / scale_F


def _path(
    train_NR: Floats, labels_N: Integers, others_NR: Floats, classes: int
) -> Iterator[tuple[float, tuple[Floats, bool]]]:
    """Yield each C with probabilities on the others and whether the fit converged.

    Each fit starts from the last: the path from strong to weak regularisation is short.
    """
    present, target_N = np.unique(labels_N, return_inverse=True)
    target_NK = np.eye(len(present))[target_N]
    weights_RK = np.zeros((train_NR.shape[1] + 1, len(present)))
    train_NR, others_NR = _with_ones(train_NR), _with_ones(others_NR)
    for strength in STRENGTHS:
        weights_RK, converged = _fit(train_NR, target_NK, weights_RK, strength)
        scores_NK = np.zeros((len(others_NR), classes))
        scores_NK[:, present] = softmax(others_NR @ weights_RK, axis=1)
        yield strength, (scores_NK, converged)


def _fit(
    train_NR: Floats, target_NK: Floats, start_RK: Floats, strength: float
) -> tuple[Floats, bool]:
    """Return the weights that minimise sum of log losses + |weights|²/2C, and whether it converged.

    scikit-learn's own solver needs thousands of steps on raw pixels. Along principal axes the
    curvature is nearly diagonal, so steps are taken in units of its root: tens are enough. The last
    column of ones carries the intercept, which is not regularised.
    """
    images, ridge_R1 = len(train_NR), np.full((train_NR.shape[1], 1), 1 / strength)
    ridge_R1[-1] = 0
    share_K = target_NK.mean(axis=0)
    power_R1 = np.square(train_NR).sum(axis=0)[:, None]
    unit_RK = np.sqrt((power_R1 * (share_K * (1 - share_K) + 1e-3) + ridge_R1) / images)

    def loss(steps: Floats) -> tuple[float, Floats]:
        weights_RK = steps.reshape(unit_RK.shape) / unit_RK
        log_NK = log_softmax(train_NR @ weights_RK, axis=1)
        slope_RK = train_NR.T @ (np.exp(log_NK) - target_NK) + ridge_R1 * weights_RK
        value = -(target_NK * log_NK).sum() + (ridge_R1 * weights_RK**2).sum() / 2
        return float(value) / images, (slope_RK / unit_RK).ravel() / images

    options = {"maxiter": MAX_STEPS, "gtol": TOLERANCE, "ftol": 1e-10}
    start = (start_RK * unit_RK).ravel()
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(unit_RK.shape) / unit_RK, bool(found.success)


def _with_ones(features_NR: Floats) -> Floats:
    return np.concatenate([features_NR, np.ones((len(features_NR), 1))], axis=1)


def _quality(scores_NK: Floats, labels_N: Integers) -> float:
    return float(macro_auc(scores_NK, labels_N, np.ones((1, len(labels_N))))[0])


def _quality_in_folds(train_NR: Floats, train: Labelled, classes: int) -> dict[float, float]:
    """Return C -> macro AUC over training images that were held out with their whole patient."""
    folds = min(FOLDS, len(np.unique(train.patients)))
    fallback = {strength: float(strength == FALLBACK_STRENGTH) for strength in STRENGTHS}
    if folds < 2:
        return fallback
    held = {strength: np.zeros((len(train.labels), classes)) for strength in STRENGTHS}
    # Imported here: a study's first round need not wait for it.
    from sklearn.model_selection import GroupKFold

    for fit, out in GroupKFold(folds).split(train_NR, groups=train.patients):
        for strength, (scores_NK, _) in _path(
            train_NR[fit], train.labels[fit], train_NR[out], classes
        ):
            held[strength][out] = scores_NK
    quality = {strength: _quality(scores_NK, train.labels) for strength, scores_NK in held.items()}
    return quality if np.isfinite(list(quality.values())).all() else fallback


def knn_scores(
    train_NF: NDArray[Any], train_labels: Integers, test_NF: NDArray[Any], classes: int, k: int
) -> Floats:
    """Return each class's share among the *k* training images nearest by cosine, shape (N, K).

    Where votes tie, nearer neighbours count a millionth more. Takes all when there are fewer.
    """
    k = min(k, len(train_NF))
    if k < 1:
        raise DataError(f"no neighbours to ask: {len(train_NF)} training images, k = {k}.")
    close_NN = _unit(test_NF) @ _unit(train_NF).T
    nearest_Nk = np.argsort(-close_NN, axis=1, kind="stable")[:, :k]
    votes_k = 1 + 1e-6 * np.linspace(1, 0, k)
    share_NkK = np.eye(classes)[train_labels[nearest_Nk]] * votes_k[:, None]
    return np.asarray(share_NkK.sum(axis=1) / votes_k.sum())


def macro_auc(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the mean one-against-rest area under the ROC curve in each draw, shape (D,)."""
    kinds = [kind for kind in np.unique(labels_N) if not np.all(labels_N == kind)]
    areas_KD = [_auc(scores_NK[:, kind], labels_N == kind, weights_DN) for kind in kinds]
    return _mean_of_known(np.asarray(areas_KD).reshape(len(kinds), len(weights_DN)))


def accuracy(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the share of images whose highest score is their class in each draw, shape (D,)."""
    right_N = (scores_NK.argmax(axis=1) == labels_N).astype(np.float64)
    return np.asarray(weights_DN @ right_N / weights_DN.sum(axis=1))


def balanced_accuracy(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the mean recall over the classes that are present in each draw, shape (D,)."""
    right_N = scores_NK.argmax(axis=1) == labels_N
    member_NK = np.eye(scores_NK.shape[1])[labels_N]
    with np.errstate(invalid="ignore"):
        recall_DK = (weights_DN @ (member_NK * right_N[:, None])) / (weights_DN @ member_NK)
    return _mean_of_known(recall_DK.T)


MEASURES: Mapping[str, Measure] = {
    "auc": macro_auc,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
}


def _auc(scores_N: Floats, positive_N: NDArray[np.bool_], weights_DN: Floats) -> Floats:
    """Return P(positive above negative) + P(tied) / 2 in each draw; NaN where one side is empty."""
    order_N = np.argsort(scores_N, kind="stable")
    ranked_N, positive_N = scores_N[order_N], positive_N[order_N]
    weights_DN = weights_DN[:, order_N]
    negatives_DN = np.cumsum(weights_DN * ~positive_N, axis=1)
    negatives_DN = np.pad(negatives_DN, ((0, 0), (1, 0)))
    mine_N, mine_DN = ranked_N[positive_N], weights_DN[:, positive_N]
    below_DN = negatives_DN[:, np.searchsorted(ranked_N, mine_N, side="left")]
    upto_DN = negatives_DN[:, np.searchsorted(ranked_N, mine_N, side="right")]
    won_D = (mine_DN * (below_DN + upto_DN)).sum(axis=1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(won_D / (mine_DN.sum(axis=1) * negatives_DN[:, -1]))


def _mean_of_known(values_KD: Floats) -> Floats:
    """Return the mean over classes of what is not NaN; NaN where nothing is known."""
    known_KD = np.isfinite(values_KD)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known_KD, values_KD, 0).sum(axis=0) / known_KD.sum(axis=0))


def _unit(features_NF: NDArray[Any]) -> NDArray[np.float32]:
    features_NF = np.asarray(features_NF, np.float32)
    lengths_N1 = np.linalg.norm(features_NF, axis=1, keepdims=True)
    return np.asarray(features_NF / np.maximum(lengths_N1, 1e-12))
