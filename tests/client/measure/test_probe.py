import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from confrere_client.measure import probe
from confrere_client.measure.probe import Labelled, knn_scores, linear_probe
from confrere_common.errors import DataError


def clouds(images: int, width: int, classes: int = 3, seed: int = 0, gap: float = 2.0) -> Labelled:
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width)) * gap / np.sqrt(width)
    features = 5 + centres[labels] + generator.normal(size=(images, width))
    return Labelled(features=features, labels=labels, patients=np.arange(images) // 2)


def some(part: Labelled, rows) -> Labelled:
    return Labelled(
        features=part.features[rows], labels=part.labels[rows], patients=part.patients[rows]
    )


def nothing(width: int) -> Labelled:
    return some(clouds(2, width), np.empty(0, np.int64))


def once(count: int) -> np.ndarray:
    return np.ones((1, count))


@pytest.mark.parametrize("width", [8, 150], ids=["few features", "more features than images"])
def test_the_linear_probe_is_scikit_learn_s_regression_on_standardised_features(width):
    train, val, test = (clouds(90, width, seed=seed) for seed in range(3))

    found = linear_probe(train, val, test.features, 3)

    scale = StandardScaler().fit(train.features)
    theirs = LogisticRegression(C=found.strength, max_iter=5000, tol=1e-8)
    theirs.fit(scale.transform(train.features), train.labels)
    due = theirs.predict_proba(scale.transform(test.features))
    assert found.converged
    assert np.abs(found.scores - due).max() < 5e-3


def test_the_strength_is_the_one_with_the_best_auc_on_val():
    train, val = clouds(60, 40, gap=1.0), clouds(60, 40, seed=1, gap=1.0)

    found = linear_probe(train, val, val.features, 3)

    scale = StandardScaler().fit(train.features)
    quality = {}
    for strength in probe.STRENGTHS:
        theirs = LogisticRegression(C=strength, max_iter=5000)
        theirs.fit(scale.transform(train.features), train.labels)
        scores = theirs.predict_proba(scale.transform(val.features))
        quality[strength] = roc_auc_score(val.labels, scores, multi_class="ovr")
    assert quality[found.strength] == pytest.approx(max(quality.values()), abs=2e-3)


def test_a_constant_feature_changes_nothing():
    train, val, test = (clouds(60, 6, seed=seed) for seed in range(3))
    wider = [
        Labelled(
            features=np.column_stack([part.features, np.full(60, 0.1)]),
            labels=part.labels,
            patients=part.patients,
        )
        for part in (train, val, test)
    ]

    plain = linear_probe(train, val, test.features, 3).scores
    with_constant = linear_probe(wider[0], wider[1], wider[2].features, 3).scores

    assert np.abs(plain - with_constant).max() < 1e-3


def test_classes_that_train_or_val_lack_are_no_obstacle():
    train, val, test = (clouds(90, 8, seed=seed) for seed in range(3))

    found = linear_probe(
        some(train, train.labels != 1), some(val, val.labels != 2), test.features, 4
    )

    assert found.scores.shape == (90, 4)
    assert not found.scores[:, [1, 3]].any()
    assert np.allclose(found.scores.sum(axis=1), 1)


def test_one_class_in_train_is_foretold_for_all():
    train, test = clouds(30, 4), clouds(9, 4, seed=1)

    found = linear_probe(some(train, train.labels == 2), nothing(4), test.features, 3)

    assert (found.scores == [0, 0, 1]).all()


def test_without_val_the_strength_is_chosen_in_folds_over_patients():
    train, test = clouds(120, 30), clouds(120, 30, seed=1)

    found = linear_probe(train, nothing(30), test.features, 3)
    again = linear_probe(train, nothing(30), test.features, 3)

    assert probe.macro_auc(found.scores, test.labels, once(120))[0] > 0.75
    assert np.array_equal(found.scores, again.scores)


def test_a_single_patient_without_val_gets_the_fallback_strength():
    train = clouds(30, 4)
    alone = Labelled(features=train.features, labels=train.labels, patients=np.zeros(30, np.int64))

    found = linear_probe(alone, nothing(4), train.features, 3)

    assert found.strength == probe.FALLBACK_STRENGTH


@pytest.mark.parametrize(("labels", "message"), [([0, -1], "-1 to 0"), ([0, 3], "0 to 3")])
def test_labels_outside_the_classes_are_refused_with_their_range(labels, message):
    train = Labelled(features=np.eye(2), labels=np.asarray(labels), patients=np.arange(2))

    with pytest.raises(DataError, match=f"labels run from {message}, but must be from 0 to 2"):
        linear_probe(train, nothing(2), np.eye(2), 3)


def test_a_probe_without_training_images_is_refused():
    with pytest.raises(DataError, match="no labelled training image"):
        linear_probe(nothing(2), nothing(2), np.eye(2), 3)
    with pytest.raises(DataError, match="0 training images"):
        knn_scores(np.empty((0, 2)), np.empty(0, np.int64), np.eye(2), 3, 11)


def test_neighbours_vote_by_angle_and_not_by_length():
    train = np.asarray([[1.0, 0], [100, 1], [0, 1], [0, 50]])

    shares = knn_scores(train, np.asarray([0, 0, 1, 1]), np.asarray([[9.0, 0], [0, 0.1]]), 2, 2)

    assert shares == pytest.approx(np.eye(2))


def test_votes_that_tie_go_to_the_nearer_neighbour():
    train = np.asarray([[1.0, 1], [1, 0]])

    shares = knn_scores(train, np.asarray([0, 1]), np.asarray([[1.0, 0.1]]), 2, 11)

    assert shares.argmax() == 1
    assert shares == pytest.approx(np.full((1, 2), 0.5), abs=1e-5)


@given(
    seed=st.integers(0, 999),
    images=st.integers(12, 40),
    steps=st.sampled_from([3, 1000]),
)
@settings(deadline=None, max_examples=30)
def test_measures_equal_scikit_learn_s_with_ties_and_weights(seed, images, steps):
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), generator.integers(3, size=images)])
    scores = np.round(generator.dirichlet(np.ones(3), len(labels)) * steps) / steps
    weights = generator.integers(1, 4, size=(2, len(labels))).astype(float)

    for draw, each in enumerate(weights):
        areas = [roc_auc_score(labels == k, scores[:, k], sample_weight=each) for k in range(3)]
        assert probe.macro_auc(scores, labels, weights)[draw] == pytest.approx(np.mean(areas))
        due = balanced_accuracy_score(labels, scores.argmax(axis=1), sample_weight=each)
        assert probe.balanced_accuracy(scores, labels, weights)[draw] == pytest.approx(due)
        right = np.average(scores.argmax(axis=1) == labels, weights=each)
        assert probe.accuracy(scores, labels, weights)[draw] == pytest.approx(right)


def test_a_class_that_the_test_lacks_has_no_part_in_the_means():
    labels = np.asarray([0, 0, 1, 1])
    scores = np.asarray([[0.9, 0.1, 0], [0.2, 0.3, 0.5], [0.1, 0.9, 0], [0.3, 0.7, 0]])

    assert probe.macro_auc(scores, labels, once(4))[0] == pytest.approx((0.75 + 1) / 2)
    assert probe.balanced_accuracy(scores, labels, once(4))[0] == pytest.approx(0.75)


def test_one_class_alone_has_no_auc():
    assert np.isnan(probe.macro_auc(np.eye(3), np.ones(3, np.int64), once(3))).all()
