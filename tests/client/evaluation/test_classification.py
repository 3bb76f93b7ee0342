"""Measures of a classifier, against scikit-learn and against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from confrere_client.evaluation import classification as measures
from confrere_client.evaluation.calibration import softmax
from confrere_client.measure.intervals import Truth, figure, patient_weights

ONCE = np.ones((1, 40))


def drawn(seed: int, classes: int = 3, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels_N = np.concatenate(
        [np.arange(classes), generator.integers(classes, size=images - classes)]
    )
    logits_NK = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels_N]
    return np.round(softmax(logits_NK, axis=1), 2), labels_N


@given(seed=st.integers(0, 50), classes=st.integers(2, 5))
@settings(deadline=None, max_examples=25)
def test_each_measure_is_scikit_learns(seed: int, classes: int) -> None:
    scores_NK, labels_N = drawn(seed, classes)
    told_N, hot_NK = scores_NK.argmax(axis=1), np.eye(classes)[labels_N]

    due = {
        "accuracy": metrics.accuracy_score(labels_N, told_N),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels_N, told_N),
        "f1": metrics.f1_score(labels_N, told_N, average="macro"),
        "average_precision": np.mean(
            [metrics.average_precision_score(hot_NK[:, k], scores_NK[:, k]) for k in range(classes)]
        ),
        "auc": np.mean(
            [metrics.roc_auc_score(hot_NK[:, k], scores_NK[:, k]) for k in range(classes)]
        ),
        "brier": np.square(scores_NK - hot_NK).sum(axis=1).mean() / 2,
    }

    for name, value in due.items():
        assert measures.MEASURES[name](scores_NK, labels_N, ONCE)[0] == pytest.approx(value), name
    kappa = metrics.cohen_kappa_score(labels_N, told_N, weights="quadratic")
    found = measures.quadratic_kappa(scores_NK, labels_N, ONCE)[0]
    assert found == pytest.approx(max(0, kappa))


@pytest.mark.parametrize("name", measures.ORDINAL)
def test_an_image_of_weight_two_counts_as_two_images(name: str) -> None:
    scores_NK, labels_N = drawn(1)
    weights_1N = np.random.default_rng(2).integers(0, 4, size=(1, 40)).astype(float)
    rows = np.repeat(np.arange(40), weights_1N[0].astype(int))

    weighed = measures.ORDINAL[name](scores_NK, labels_N, weights_1N)
    repeated = measures.ORDINAL[name](scores_NK[rows], labels_N[rows], np.ones((1, len(rows))))

    # Bins of equal filling are laid on the images as they are, whatever they weigh.
    due = pytest.approx(repeated, abs=0.2 if name == "adaptive_ece" else 1e-9)
    assert weighed == due


@pytest.mark.parametrize("name", measures.ORDINAL)
def test_each_measure_gets_an_interval_over_patients(name: str) -> None:
    scores_NK, labels_N = drawn(3)
    truth = Truth(labels=labels_N, patients=np.arange(40) // 2)

    found = figure(measures.ORDINAL[name], scores_NK[None], truth)

    assert found is not None
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_a_class_without_an_image_takes_no_part_in_a_mean() -> None:
    scores_NK, labels_N = drawn(4, classes=2)
    wider_NK = np.concatenate([scores_NK, np.zeros((40, 1))], axis=1)

    for name, measure in measures.MEASURES.items():
        assert measure(wider_NK, labels_N, ONCE) == pytest.approx(
            measure(scores_NK, labels_N, ONCE)
        ), name


@pytest.mark.parametrize("name", ["auc", "average_precision", measures.OPTIMISTIC])
def test_one_class_alone_has_no_ranking(name: str) -> None:
    scores_NK, _ = drawn(5)

    found = measures.MEASURES[name](scores_NK, np.zeros(40, np.int64), ONCE)

    assert np.isnan(found).all()


def test_a_draw_without_a_class_is_nan_in_that_draw_alone() -> None:
    scores_NK, labels_N = drawn(6, classes=2)
    weights_DN = np.stack([np.ones(40), (labels_N == 0).astype(float)])

    found = measures.MEASURES[measures.OPTIMISTIC](scores_NK, labels_N, weights_DN)

    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_sensitivity_at_a_specificity_is_read_off_the_curve() -> None:
    positive_N = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).astype(bool)
    scores_N = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03])
    two_N2, ones_1N = np.stack([1 - scores_N, scores_N], axis=1), np.ones((1, 12))

    # 9 negatives: none may alarm at 0.9, one may at 0.88; one class mirrors the other.
    strict = measures._sensitivity(scores_N, positive_N, ones_1N, 0.9)
    loose = measures._sensitivity(scores_N, positive_N, ones_1N, 0.88)
    both = measures.sensitivity_at(0.9)(two_N2, positive_N.astype(int), ones_1N)

    assert strict == pytest.approx(2 / 3)
    assert loose == pytest.approx(1)
    # At 0.9 of three positives all must stay, so the negatives below the last of them are found.
    assert both == pytest.approx((2 / 3 + 8 / 9) / 2)


def test_equal_scores_are_decided_together() -> None:
    scores_N, positive_N = np.full(10, 0.5), np.arange(10) < 5

    assert measures._sensitivity(scores_N, positive_N, np.ones((1, 10)), 0.9) == 0
    assert measures.average_precision(scores_N, positive_N, np.ones((1, 10))) == pytest.approx(0.5)
    two_N2 = np.stack([1 - scores_N, scores_N], axis=1)
    assert measures.thresholds(two_N2, positive_N.astype(int)).tolist() == [np.inf, np.inf]


def test_a_threshold_chosen_on_validation_decides_the_test() -> None:
    scores_N = np.arange(21) / 20
    positive_N = (np.arange(21) > 12).astype(int)
    two_N2, ones_1N = np.stack([1 - scores_N, scores_N], axis=1), np.ones((1, 21))

    chosen = measures.thresholds(two_N2, positive_N, specificity=0.9)
    shifted_N2 = np.stack([1 - scores_N, scores_N + 0.1], axis=1)
    found = measures.reached(measures.decisions(shifted_N2, chosen), positive_N)

    # 13 negatives: one of them may alarm, so the threshold is the largest negative score. Of the
    # other class the 8 positives are the negatives: none may alarm, and all of the 13 are found.
    assert chosen == pytest.approx([0.4, 0.6])
    # In the test, three negatives of 13 have risen to the threshold.
    specificity = found["specificity_at_validation_threshold"](ones_1N)[0]
    sensitivity = found["sensitivity_at_validation_threshold"](ones_1N)[0]
    assert specificity == pytest.approx((10 / 13 + 1) / 2)
    assert sensitivity == pytest.approx(1)


def test_a_class_without_a_negative_to_choose_on_has_no_threshold_and_no_part() -> None:
    labels_NL = np.array([[1, 1], [1, 0], [1, -1], [-1, 0]])
    scores_NL = np.array([[0.9, 0.8], [0.8, 0.3], [0.1, 0.9], [0.2, 0.1]])

    chosen = measures.thresholds(scores_NL, labels_NL)
    decided_NL = measures.decisions(scores_NL, chosen)
    found = measures.reached(decided_NL, labels_NL)["sensitivity_at_validation_threshold"]

    assert np.isnan(chosen[0])
    assert chosen[1] == 0.8  # what is not known is no negative
    assert decided_NL.tolist() == [[-1, 1], [-1, 0], [-1, 1], [-1, 0]]
    assert found(np.ones((1, 4)))[0] == 1
    assert np.isnan(found(np.array([[0.0, 1, 1, 1]]))[0])


def test_findings_have_the_f1_and_the_sensitivity_of_what_is_present() -> None:
    generator = np.random.default_rng(5)
    labels_NL = generator.integers(-1, 2, size=(80, 3))
    scores_NL = np.clip(0.5 + 0.2 * labels_NL + 0.3 * generator.normal(size=(80, 3)), 0, 1)
    ones_1N = np.ones((1, 80))

    f1, sensitivity = (
        measures.FINDINGS[name](scores_NL, labels_NL, ones_1N)[0]
        for name in ("f1", measures.OPTIMISTIC)
    )

    told = [(scores_N[known], labels_N[known]) for scores_N, labels_N, known in zip(
        scores_NL.T, labels_NL.T, (labels_NL >= 0).T, strict=True
    )]  # fmt: skip
    assert f1 == pytest.approx(
        np.mean([metrics.f1_score(labels_N, scores_N > 0.5) for scores_N, labels_N in told])
    )
    due = []
    for scores_N, labels_N in told:
        alarms, hits, _ = metrics.roc_curve(labels_N, scores_N, drop_intermediate=False)
        due.append(hits[alarms <= 0.1 + 1e-9].max())
    assert sensitivity == pytest.approx(np.mean(due))


def test_findings_are_judged_where_they_are_known() -> None:
    labels_NL = np.array([[1, -1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    scores_NL = np.array([[0.9, 0.0, 0.3], [0.8, 0.7, 0.2], [0.7, 0.6, 0.1], [0.1, 0.9, 0.2]])

    found = measures.FINDINGS["auc"](scores_NL, labels_NL, np.ones((1, 4)))

    # Finding 0: 3 of 4 pairs; finding 1, without its unknown image: 1 of 2; finding 2 never occurs.
    assert found == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_findings_get_an_interval_too() -> None:
    generator = np.random.default_rng(0)
    labels_NL = generator.integers(-1, 2, size=(60, 4))
    scores_NL = np.clip(0.5 + 0.2 * labels_NL + 0.2 * generator.normal(size=(60, 4)), 0, 1)
    truth = Truth(labels=labels_NL, patients=np.arange(60) // 3)

    for name, measure in measures.FINDINGS.items():
        found = figure(measure, scores_NL[None], truth)

        assert found is not None, name
        assert 0 <= found.low <= found.mean < found.high <= 1


def test_a_thousand_draws_are_quick() -> None:
    scores_NK, labels_N = drawn(7, classes=7, images=500)
    weights_DN = patient_weights(np.arange(500), 1000, 0)

    for measure in measures.MEASURES.values():
        assert measure(scores_NK, labels_N, weights_DN).shape == (1000,)
