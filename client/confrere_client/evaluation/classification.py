"""Measures of a classifier: how it ranks, how it decides, and whether its confidence is honest.

All are of the form that ``measure.intervals`` draws from: they weigh images, so an interval over
patients computes all draws at once. Scores are probabilities of the classes. Conventions:

- A class without an image in the test set takes no part in a mean over classes; NaN when none is
  left. That is sklearn's mean over the classes that occur, not over all that the model knows.
- Labels of shape (N, L) are of several findings at once: 1 present, 0 absent, -1 not known. A
  finding is judged on the images where it is known, and NaN where these are all alike.
- Equal scores count half in an area, and are decided together: no threshold parts them.

Shapes: D draws, N images, K classes, L findings, T distinct scores, b bins.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.calibration import (
    adaptive_calibration_error,
    brier,
    expected_calibration_error,
)
from confrere_client.evaluation.paired import Weighed
from confrere_client.measure.intervals import Floats, Measure
from confrere_client.measure.probe import Integers, accuracy, balanced_accuracy, macro_auc

SPECIFICITY = 0.9
OPTIMISTIC = "optimistic_sensitivity_at_90_specificity"
"""What the figure is called whose threshold is the test set's own."""

OfOne: TypeAlias = Callable[[Floats, NDArray[np.bool_], Floats], Floats]
"""``(scores_N, positive_N, weights_DN) -> values_D`` of one class against the rest."""


def macro_f1(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the mean F1 over the classes that occur in each draw, shape (D,)."""
    member_NK = np.eye(scores_NK.shape[1])[labels_N]
    chosen_NK = np.eye(scores_NK.shape[1])[scores_NK.argmax(axis=1)]
    hits_DK, members_DK = weights_DN @ (member_NK * chosen_NK), weights_DN @ member_NK
    f1_DK = 2 * hits_DK / np.maximum(members_DK + weights_DN @ chosen_NK, 1e-300)
    return mean_of_known(np.where(members_DK > 0, f1_DK, np.nan))


def macro_average_precision(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the mean over classes of the area under precision and recall, shape (D,).

    Precision counts where recall rises, without interpolation, as in scikit-learn.
    """
    return _over_classes(average_precision, scores_NK, labels_N, weights_DN)


def average_precision(
    scores_N: Floats, positive_N: NDArray[np.bool_], weights_DN: Floats
) -> Floats:
    """Return the area under precision and recall in each draw; NaN where nothing is positive."""
    hits_DT, others_DT = steps(scores_N, positive_N, weights_DN)
    rises_DT = np.diff(hits_DT, axis=1, prepend=0)
    precision_DT = hits_DT / np.maximum(hits_DT + others_DT, 1e-300)
    with np.errstate(invalid="ignore"):
        return np.asarray((rises_DT * precision_DT).sum(axis=1) / hits_DT[:, -1])


def sensitivity_at(specificity: float = SPECIFICITY) -> Measure:
    """Return the measure: mean over classes of the best sensitivity that keeps *specificity*.

    The threshold is the test set's own, so the figure tells how well scores rank and is a little
    too good for practice; ``thresholds`` of validation images give what would be deployed.
    """

    def measure(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
        return _over_classes(of_one, scores_NK, labels_N, weights_DN)

    def of_one(scores_N: Floats, positive_N: NDArray[np.bool_], weights_DN: Floats) -> Floats:
        return _sensitivity(scores_N, positive_N, weights_DN, specificity)

    return measure


def _sensitivity(
    scores_N: Floats, positive_N: NDArray[np.bool_], weights_DN: Floats, specificity: float
) -> Floats:
    hits_DT, alarms_DT = steps(scores_N, positive_N, weights_DN)
    with np.errstate(invalid="ignore"):
        # Rounding of a sum of weights must not cost a threshold that just keeps the specificity.
        kept_DT = alarms_DT <= (1 - specificity) * alarms_DT[:, -1:] + 1e-9
        share_D = np.where(kept_DT, hits_DT, 0).max(axis=1) / hits_DT[:, -1]
    return np.where(alarms_DT[:, -1] > 0, share_D, np.nan)


def sensitivity_of_present(scores_N2: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the same of class 1 alone, for a finding that is present or absent, shape (D,)."""
    return _sensitivity(scores_N2[:, 1], labels_N == 1, weights_DN, SPECIFICITY)


def f1_of_present(scores_N2: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return the F1 of class 1 in each draw, shape (D,); NaN where nothing is positive."""
    chosen_N, present_N = scores_N2.argmax(axis=1) == 1, labels_N == 1
    hits_D, present_D = weights_DN @ (chosen_N & present_N), weights_DN @ present_N
    with np.errstate(invalid="ignore"):
        f1_D = 2 * hits_D / (present_D + weights_DN @ chosen_N)
    return np.where(present_D > 0, f1_D, np.nan)


def thresholds(scores_NK: Floats, labels: Integers, specificity: float = SPECIFICITY) -> Floats:
    """Return each class's lowest threshold that keeps *specificity*, shape (K,).

    Labels are classes (N,) or findings (N, K). Positive is what scores at least the threshold;
    infinite where only "never" keeps it, NaN without an image that is known to be negative.
    """
    found = [
        _threshold(scores_N[told_N], positive_N[told_N], specificity)
        for scores_N, (positive_N, told_N) in zip(
            scores_NK.T, _one_by_one(labels, scores_NK.shape[1]), strict=True
        )
    ]
    return np.asarray(found, np.float64)


def _threshold(scores_N: Floats, positive_N: NDArray[np.bool_], specificity: float) -> float:
    if positive_N.all():
        return float("nan")
    ones_1N = np.ones((1, len(scores_N)))
    _, alarms_1T = steps(scores_N, positive_N, ones_1N)
    kept_T = alarms_1T[0] <= (1 - specificity) * alarms_1T[0, -1] + 1e-9
    descending_T = np.unique(scores_N)[::-1]
    return float(descending_T[kept_T][-1]) if kept_T.any() else float("inf")


def decisions(scores_NK: Floats, thresholds_K: Floats) -> NDArray[np.int8]:
    """Return 1 where a class is told to be present, 0 where not, -1 where it has no threshold."""
    decided_NK = (scores_NK >= thresholds_K).astype(np.int8)
    return np.where(np.isnan(thresholds_K), np.int8(-1), decided_NK)


def reached(decided_NK: NDArray[np.int8], labels: Integers) -> Mapping[str, Weighed]:
    """Return sensitivity and specificity of decisions, each the mean over classes that have it.

    Labels are classes (N,) or findings (N, K). The threshold was chosen on other images, so the
    specificity is what is reached and need not be what was wanted.
    """
    sides = list(_one_by_one(labels, decided_NK.shape[1]))

    def share(wanted: int) -> Weighed:
        def weighed(weights_DN: Floats) -> Floats:
            found = [np.full(len(weights_DN), np.nan)]
            for decided_N, (positive_N, told_N) in zip(decided_NK.T, sides, strict=True):
                asked_N = told_N & (positive_N == (wanted == 1)) & (decided_N >= 0)
                with np.errstate(invalid="ignore"):
                    right_D = weights_DN @ (asked_N & (decided_N == wanted))
                    found.append(np.asarray(right_D / (weights_DN @ asked_N)))
            return mean_of_known(np.stack(found, axis=1))

        return weighed

    return {"sensitivity_at_validation_threshold": share(1),
            "specificity_at_validation_threshold": share(0)}  # fmt: skip


def _one_by_one(
    labels: Integers, classes: int
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield, class by class, which images have it and of which images that is known."""
    for kind in range(classes):
        if labels.ndim == 2:
            yield labels[:, kind] == 1, labels[:, kind] >= 0
        else:
            yield labels == kind, labels >= 0


def quadratic_kappa(scores_NK: Floats, labels_N: Integers, weights_DN: Floats) -> Floats:
    """Return Cohen's kappa with squared distances between ordered classes, shape (D,).

    Source: https://doi.org/10.1037/h0026256. 0 where it is worse than chance; NaN where all are of
    one class and told so, when chance cannot be beaten.
    """
    classes = scores_NK.shape[1]
    member_NK, chosen_NK = np.eye(classes)[labels_N], np.eye(classes)[scores_NK.argmax(axis=1)]
    far_KK = np.square(np.arange(classes)[:, None] - np.arange(classes)[None])
    seen_D = weights_DN @ far_KK[labels_N, scores_NK.argmax(axis=1)]
    total_D = weights_DN.sum(axis=1)
    by_chance_D = np.einsum("dk,kj,dj->d", weights_DN @ member_NK, far_KK, weights_DN @ chosen_NK)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa_D = 1 - seen_D * total_D / by_chance_D
    return np.where(by_chance_D > 0, np.maximum(0, kappa_D), np.nan)


def per_finding(of_two: Measure) -> Measure:
    """Return the measure of several findings at once: the mean of *of_two* over the findings.

    Labels are (N, L) and scores (N, L), each the probability that the finding is present.
    """

    def measure(scores_NL: Floats, labels_NL: Integers, weights_DN: Floats) -> Floats:
        found = [np.full(len(weights_DN), np.nan)]
        for scores_N, labels_N in zip(scores_NL.T, labels_NL.T, strict=True):
            told_N = labels_N >= 0
            if len(np.unique(labels_N[told_N])) == 2:
                two_N2 = np.stack([1 - scores_N, scores_N], axis=1)[told_N]
                found.append(of_two(two_N2, labels_N[told_N], weights_DN[:, told_N]))
        return mean_of_known(np.stack(found, axis=1))

    return measure


def _over_classes(
    of_one: OfOne, scores_NK: Floats, labels_N: Integers, weights_DN: Floats
) -> Floats:
    """Return the mean of *of_one* over the classes that have both positives and negatives."""
    kinds = [kind for kind in np.unique(labels_N) if not np.all(labels_N == kind)]
    found = [of_one(scores_NK[:, kind], labels_N == kind, weights_DN) for kind in kinds]
    nothing_D = np.full(len(weights_DN), np.nan)
    return mean_of_known(np.stack([*found, nothing_D], axis=1))


def mean_of_known(values_DK: Floats) -> Floats:
    """Return the mean along the last axis of what is not NaN; NaN where nothing is known."""
    known_DK = np.isfinite(values_DK)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known_DK, values_DK, 0).sum(axis=1) / known_DK.sum(axis=1))


def steps(
    scores_N: Floats, positive_N: NDArray[np.bool_], weights_DN: Floats
) -> tuple[Floats, Floats]:
    """Return the weight of positives and of negatives that score at least each distinct score.

    Thresholds descend, so that both only rise; shapes (D, T).
    """
    order_N = np.argsort(-scores_N, kind="stable")
    last_T = np.flatnonzero(np.append(np.diff(scores_N[order_N]) != 0, True))
    weights_DN, positive_N = weights_DN[:, order_N], positive_N[order_N]
    hits_DT = np.cumsum(weights_DN * positive_N, axis=1)[:, last_T]
    return hits_DT, np.cumsum(weights_DN * ~positive_N, axis=1)[:, last_T]


MEASURES: Mapping[str, Measure] = {
    "auc": macro_auc,
    "average_precision": macro_average_precision,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": macro_f1,
    OPTIMISTIC: sensitivity_at(SPECIFICITY),
    "ece": expected_calibration_error,
    "adaptive_ece": adaptive_calibration_error,
    "brier": brier,
}
"""Of images with one label each."""

ORDINAL: Mapping[str, Measure] = {**MEASURES, "quadratic_kappa": quadratic_kappa}
"""Of classes that stand in an order."""

FINDINGS: Mapping[str, Measure] = {
    name: per_finding(measure)
    for name, measure in {
        "auc": macro_auc,
        "average_precision": macro_average_precision,
        "balanced_accuracy": balanced_accuracy,
        "f1": f1_of_present,
        OPTIMISTIC: sensitivity_of_present,
        "brier": brier,
        "ece": expected_calibration_error,
    }.items()
}
"""Of several findings in an image."""
