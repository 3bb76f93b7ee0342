"""Scores are made one model at a time, kept, and believed only of the weights that made them."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from confrere_client.data.catalog import Catalog
from confrere_client.data.images import Images
from confrere_deploy.study.holdout import holdout
from confrere_deploy.study.measure import (
    LEAST_PATIENTS,
    Exam,
    Features,
    Fingerprint,
    arm_figures,
    load_scores,
    patients_by_site,
    save_scores,
)

COUNT = 80


@pytest.fixture
def exam() -> Exam:
    """Return an exam on 80 patients of two classes, whose test patients are dealt to two sites."""
    labels = np.arange(COUNT) % 2
    blank = np.asarray([""] * COUNT, np.str_)
    catalog = Catalog(
        patients=np.arange(COUNT),
        labels=labels,
        sites=blank,
        splits=blank,
        classes=("x", "y"),
        names=blank,
    )
    pixels = np.zeros((COUNT, 1, 8, 8), np.uint8)
    held = holdout(catalog, 0.3, 0.2, 0)
    sites = np.asarray(["few"] * 3 + ["many"] * (len(held.test) - 3), np.str_)
    images = Images(pixels=pixels, catalog=catalog, skipped=(), digest="d")
    return Exam(images=images, holdout=held, sites=sites)


def features(exam: Exam, seed: int) -> Features:
    noise = np.random.default_rng(seed).normal(size=(COUNT, 6)).astype(np.float32)
    noise[:, 0] += exam.images.catalog.labels
    return noise


def test_the_features_of_many_models_are_never_held_at_once(exam: Exam) -> None:
    alive: list[weakref.ref[Features]] = []
    most = 0

    def models() -> Iterator[Features]:
        nonlocal most
        for seed in range(4):
            most = max(most, sum(each() is not None for each in alive))
            found = features(exam, seed)
            alive.append(weakref.ref(found))
            yield found
            del found

    scores = exam.scores(models())

    assert scores.linear_MNK.shape == (4, len(exam.holdout.test), 2)
    assert most <= 1


def test_sites_of_enough_test_patients_have_figures_of_their_own(exam: Exam) -> None:
    scores = exam.scores([features(exam, 0), features(exam, 1)])

    arm = arm_figures(exam, [scores])
    alone = arm_figures(exam, [scores], own=("few", "many"))

    assert patients_by_site(exam)["few"] < LEAST_PATIENTS <= patients_by_site(exam)["many"]
    assert arm.sites is not None
    assert alone.sites is not None
    assert set(arm.sites) == set(alone.sites) == {"many"}
    assert arm.sites["many"] != alone.sites["many"]


def test_kept_scores_say_of_which_weights_they_are(exam: Exam, tmp_path: Path) -> None:
    from dataclasses import replace

    scores = replace(exam.scores([features(exam, 0)]), digest="abc")

    save_scores(tmp_path / "scores.npz", scores)
    found = load_scores(tmp_path / "scores.npz")

    assert found is not None
    assert found.digest == "abc"
    assert np.array_equal(found.linear_MNK, scores.linear_MNK)


def test_scores_of_an_older_version_are_not_believed(exam: Exam, tmp_path: Path) -> None:
    scores = exam.scores([features(exam, 0)])
    np.savez(tmp_path / "scores.npz", linear=scores.linear_MNK, rankme=scores.rankme_M)

    assert load_scores(tmp_path / "scores.npz") is None


def test_a_fingerprint_changes_with_any_weight_and_its_name() -> None:
    one = {"a": torch.tensor(1.0), "b": torch.zeros(2, 3)}
    others = [
        {"a": torch.tensor(1.0 + 1e-6), "b": torch.zeros(2, 3)},
        {"a": torch.tensor(1.0), "c": torch.zeros(2, 3)},
        {"a": torch.tensor(1.0), "b": torch.zeros(3, 2)},
        {"a": torch.tensor(1.0)},
    ]

    def told(*many: dict[str, torch.Tensor]) -> str:
        found = Fingerprint()
        for weights in many:
            found.take(weights)
        return found.text

    assert told(one) == told(dict(reversed(one.items())))
    assert len({told(one), told(one, one), *map(told, others)}) == 6
