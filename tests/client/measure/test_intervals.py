import time

import numpy as np
import pytest

from confrere_client.measure import intervals
from confrere_client.measure.intervals import (
    Truth,
    by_site,
    figure,
    paired_difference,
    patient_weights,
)
from confrere_client.measure.probe import MEASURES, accuracy, balanced_accuracy, macro_auc
from confrere_common.errors import DataError


def truth(images: int, classes: int = 3, per_patient: int = 2) -> Truth:
    return Truth(labels=np.arange(images) % classes, patients=np.arange(images) // per_patient)


def guesses(seeds: int, of: Truth, skill: float = 1.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    classes = int(of.labels.max()) + 1
    noise = generator.normal(size=(seeds, len(of.labels), classes))
    return np.asarray(noise + skill * np.eye(classes)[of.labels])


@pytest.mark.parametrize("name", MEASURES)
def test_the_mean_is_the_measure_of_the_whole_test_set_and_lies_in_its_interval(name):
    of = truth(90)
    scores = guesses(3, of)

    found = figure(MEASURES[name], scores, of)

    due = [MEASURES[name](each, of.labels, np.ones((1, 90)))[0] for each in scores]
    assert found.mean == pytest.approx(np.mean(due))
    assert 0 <= found.low < found.mean < found.high <= 1
    assert found.n == 3


def test_a_patient_is_drawn_with_all_images():
    patients = np.asarray([5, 9, 5, 2, 9, 9])

    weights = patient_weights(patients, 50, seed=0)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [1]] == weights[:, [4, 5]]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    of = truth(60)
    scores = guesses(2, of)

    once = figure(macro_auc, scores, of, seed=4)
    monkeypatch.setattr(intervals, "CHUNK_ENTRIES", 600)

    assert figure(macro_auc, scores, of, seed=4) == once
    assert figure(macro_auc, scores, of, seed=5) != once


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_a_single_patient_anything_may_be_true_of_others(seeds):
    of = truth(30, per_patient=30)
    ours, theirs = guesses(seeds, of), guesses(seeds, of)[:, ::-1]

    found, apart = figure(accuracy, ours, of), paired_difference(accuracy, ours, theirs, of)

    assert (found.low, found.high) == (0, 1)
    assert (apart.low, apart.high) == (-1, 1)


def test_images_of_few_patients_are_worth_less_than_as_many_patients():
    scores = guesses(1, truth(200))
    per_image = truth(200, per_patient=1)
    # All images of a patient are right, or all are wrong.
    right = np.repeat(np.arange(20) % 2, 10)[:, None]
    scores = np.where(right, np.eye(3)[per_image.labels], 1 - np.eye(3)[per_image.labels])[None]

    single = figure(accuracy, scores, per_image)
    grouped = figure(accuracy, scores, truth(200, per_patient=10))

    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_one_class_alone_has_no_auc_but_an_accuracy():
    of = Truth(labels=np.zeros(9, np.int64), patients=np.arange(9))

    assert figure(macro_auc, np.ones((1, 9, 2)), of) is None
    assert figure(accuracy, np.ones((1, 9, 2)), of).mean == 1


def test_a_class_with_one_patient_does_not_break_the_draws_that_miss_it():
    of = Truth(labels=np.asarray([0] * 9 + [1]), patients=np.arange(10))

    found = figure(macro_auc, guesses(1, of), of)

    assert np.isfinite([found.mean, found.low, found.high]).all()


def test_seeds_that_differ_widen_the_interval_and_two_widen_it_most():
    of = truth(300, per_patient=1)
    alike = np.repeat(guesses(1, of), 3, axis=0)
    unlike = np.stack([guesses(1, of, skill=skill)[0] for skill in (0.5, 1.0, 1.5)])

    widths = [
        found.high - found.low
        for found in (figure(accuracy, each, of) for each in (alike, unlike, unlike[:2]))
    ]

    assert widths[0] == pytest.approx(
        np.diff([getattr(figure(accuracy, alike[:1], of), side) for side in ("low", "high")])[0]
    )
    assert widths[1] > 2 * widths[0]
    assert widths[2] > widths[1]


@pytest.mark.parametrize(("seeds", "deviation"), [(1, 0.0), (3, 0.0), (3, 0.05)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(monkeypatch, seeds, deviation):
    monkeypatch.setattr(intervals, "DRAWS", 200)
    generator = np.random.default_rng(0)
    of = Truth(labels=np.zeros(120, np.int64), patients=np.arange(120) // 2)
    held = 0
    for trial in range(150):
        patients = np.repeat(generator.uniform(0.4, 1, 60), 2)
        shift = deviation * generator.normal(size=(seeds, 1))
        right = generator.random((seeds, 120)) < patients + shift
        found = figure(accuracy, np.stack([right, ~right], -1), of, seed=trial)
        held += found.low <= 0.7 <= found.high

    assert 0.86 <= held / 150 <= 1


def test_pairing_tells_arms_apart_whose_own_intervals_overlap():
    of = truth(200)
    ours = guesses(3, of, skill=1.0)
    theirs = ours - 0.15 * np.eye(3)[of.labels]

    better = paired_difference(macro_auc, ours, theirs, of)

    alone = figure(macro_auc, ours, of), figure(macro_auc, theirs, of)
    assert alone[0].low < alone[1].high
    assert better.low > 0
    assert better.mean == pytest.approx(alone[0].mean - alone[1].mean)
    worse = paired_difference(macro_auc, theirs, ours, of)
    assert worse.mean == pytest.approx(-better.mean)


def test_an_arm_differs_from_itself_by_nothing_and_one_seed_meets_all():
    of = truth(60)
    arm = guesses(3, of)

    same = paired_difference(accuracy, arm, arm, of)
    against_one = paired_difference(accuracy, arm, arm[:1], of)

    assert (same.mean, same.low, same.high, same.n) == (0, 0, 0, 3)
    assert against_one.n == 3


def test_arms_of_two_and_three_seeds_cannot_be_paired():
    of = truth(60)

    with pytest.raises(DataError, match="arm of 3 seeds cannot be paired with one of 2"):
        paired_difference(accuracy, guesses(3, of), guesses(2, of), of)


def test_models_of_one_seed_are_averaged_and_not_taken_for_seeds():
    of = truth(60)
    models = guesses(4, of)

    local = figure(accuracy, models[None], of)

    assert local.n == 1
    assert local.mean == pytest.approx(figure(accuracy, models, of).mean)


def test_each_named_site_is_measured_on_its_own_images():
    of = truth(90, per_patient=1)
    sites = np.asarray(["a"] * 30 + ["b"] * 30 + [""] * 29 + ["c"], np.str_)
    scores = guesses(2, of)

    found = by_site(balanced_accuracy, scores, of, sites)
    ranked = by_site(macro_auc, scores, of, sites)

    assert set(found) == {"a", "b", "c"}
    assert set(ranked) == {"a", "b"}
    assert found["a"] == figure(balanced_accuracy, scores[:, :30], of.at(np.arange(30)))


def test_a_site_with_a_model_of_its_own_is_measured_by_that_one_alone() -> None:
    of = truth(90)
    sites = np.asarray(["a"] * 30 + ["b"] * 30 + ["c"] * 30, np.str_)
    scores_SMNK = np.stack([guesses(2, of), guesses(2, of, skill=9.0)], axis=1)

    found = by_site(accuracy, scores_SMNK, of, sites, own=("a", "b"))

    assert set(found) == {"a", "b"}
    assert found["a"] == figure(accuracy, scores_SMNK[:, :1, :30], of.at(np.arange(30)))
    assert found["b"].mean == 1


@pytest.mark.parametrize("shape", [(60, 3), (2, 59, 3), (0, 60, 3)])
def test_scores_that_do_not_fit_the_test_images_are_refused(shape):
    with pytest.raises(DataError, match="do not fit 60 test images"):
        figure(accuracy, np.zeros(shape), truth(60))


def test_broken_scores_are_refused():
    with pytest.raises(DataError, match="NaN"):
        figure(accuracy, np.full((1, 60, 3), np.nan), truth(60))


def test_a_thousand_draws_of_600_images_and_7_classes_take_less_than_two_seconds():
    of = truth(600, classes=7)
    scores = guesses(1, of)

    began = time.process_time()
    figure(macro_auc, scores, of)

    assert time.process_time() - began < 2
