import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.data.catalog import Catalog
from confrere_common.errors import DataError
from confrere_deploy.study.holdout import Holdout, holdout


def catalog(patients, labels, sites=None, splits=None) -> Catalog:
    count = len(patients)
    return Catalog(
        patients=np.asarray(patients, np.int64),
        labels=np.asarray(labels, np.int64),
        sites=np.asarray(sites if sites is not None else [""] * count, np.str_),
        splits=np.asarray(splits if splits is not None else [""] * count, np.str_),
        classes=("a", "b", "c"),
        names=np.asarray([str(row) for row in range(count)], np.str_),
    )


def parts(held: Holdout) -> dict[str, np.ndarray]:
    return {"train": held.train, "val": held.val, "test": held.test}


def two_images_each(patients: int) -> np.ndarray:
    return np.repeat(np.arange(patients), 2)


@given(
    patients=st.integers(6, 60),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
    images=st.integers(60, 120),
)
@settings(deadline=None, max_examples=40)
def test_no_patient_is_in_two_parts_and_every_image_is_accounted_for(patients, share, seed, images):
    draw = np.random.default_rng(seed)
    owners = np.concatenate([np.arange(patients), draw.integers(patients, size=images)])
    whole = catalog(owners, np.where(draw.random(len(owners)) < 0.2, -1, owners % 3))

    held = holdout(whole, share, share, seed)

    rows = np.concatenate([*parts(held).values(), held.left_out])
    assert sorted(rows) == list(range(len(whole)))
    owned = [set(whole.patients[mine]) for mine in parts(held).values()]
    assert sum(map(len, owned)) == len(set.union(*owned))
    assert (whole.labels[np.concatenate([held.val, held.test])] >= 0).all()


def test_the_same_seed_holds_out_the_same_patients():
    whole = catalog(two_images_each(40), two_images_each(40) % 3)

    once, again, other = (holdout(whole, 0.25, 0.2, seed) for seed in (0, 0, 1))

    assert np.array_equal(once.test, again.test)
    assert np.array_equal(once.val, again.val)
    assert not np.array_equal(once.test, other.test)


def test_classes_and_sites_are_held_out_in_proportion():
    owners = np.arange(400)
    labels = np.where(owners % 10 == 0, 1, 0)
    sites = np.where(owners % 4 == 0, "small", "large")
    whole = catalog(owners, labels, sites=sites)

    held = holdout(whole, 0.25, 0.2, 0)

    assert len(held.test) == 100
    assert len(held.val) == 60
    assert (labels[held.test] == 1).sum() == 10
    assert abs((sites[held.test] == "small").sum() - 25) <= 2


def test_a_class_of_three_patients_is_in_all_three_parts():
    whole = catalog(np.arange(33), [0] * 30 + [1] * 3)

    held = holdout(whole, 0.1, 0.1, 0)

    assert all((whole.labels[rows] == 1).sum() == 1 for rows in parts(held).values())


def test_the_source_s_own_splits_hold():
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    whole = catalog(np.arange(10), [0, 1] * 5, splits=splits)

    held = holdout(whole, 0.9, 0.9, 0)

    assert held.train.tolist() == [0, 1, 2, 3, 4, 5]
    assert held.val.tolist() == [6, 7]
    assert held.test.tolist() == [8, 9]


def test_a_missing_val_is_carved_from_train_and_never_from_test():
    splits = ["train"] * 20 + ["test"] * 10
    whole = catalog(np.arange(30), [0, 1] * 15, splits=splits)

    held = holdout(whole, 0.5, 0.2, 0)

    assert held.test.tolist() == list(range(20, 30))
    assert len(held.val) == 4
    assert set(held.val) < set(range(20))


def test_a_missing_test_is_carved_from_train_and_leaves_val_as_it_is():
    splits = ["train"] * 20 + ["val"] * 4
    whole = catalog(np.arange(24), [0, 1] * 12, splits=splits)

    held = holdout(whole, 0.25, 0.5, 0)

    assert held.val.tolist() == [20, 21, 22, 23]
    assert len(held.test) in (4, 5, 6)
    assert set(held.test) < set(range(20))


def test_a_patient_in_two_splits_is_measured_and_never_trained_on():
    whole = catalog([0, 0, 1, 2, 3], [0, 0, 1, 0, 1], splits=["train", "test", "test", "", ""])

    held = holdout(whole, 0.5, 0.0, 0)

    assert 0 not in whole.patients[held.train]
    assert held.test.tolist() == [0, 1, 2]


def test_unlabelled_images_of_a_held_out_patient_are_nowhere():
    whole = catalog([0, 0, 1, 2], [0, -1, 0, -1], splits=["test", "test", "train", "train"])

    held = holdout(whole, 0.5, 0.0, 0)

    assert held.test.tolist() == [0]
    assert held.left_out.tolist() == [1]
    assert held.train.tolist() == [2, 3]


def test_without_labels_the_test_serves_measures_that_need_none():
    whole = catalog(np.arange(20), [-1] * 20)

    held = holdout(whole, 0.25, 0.2, 0)

    assert (len(held.test), len(held.val), len(held.train)) == (5, 0, 15)


def test_val_share_zero_leaves_val_empty():
    held = holdout(catalog(np.arange(20), [0, 1] * 10), 0.25, 0.0, 0)

    assert not len(held.val)


@pytest.mark.parametrize("labels", [[0, 0, 0], [-1, -1, -1]])
def test_one_patient_cannot_be_both_trained_and_tested_on(labels):
    whole = catalog([7, 7, 7], labels)

    with pytest.raises(DataError, match=r"there are 1 .*patients"):
        holdout(whole, 0.25, 0.2, 0)


def test_a_source_that_is_all_test_leaves_nobody_to_learn_from():
    whole = catalog([0, 1], [0, 1], splits=["test", "test"])

    with pytest.raises(DataError, match="nobody is left to learn from: of 2 labelled"):
        holdout(whole, 0.25, 0.2, 0)
