import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from confrere_client.measure import health
from confrere_common.encoder import build_encoder
from confrere_common.family import Named


def noise(images: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, width))


def test_rankme_counts_the_directions_that_features_use():
    orthogonal, _ = np.linalg.qr(noise(64, 8))

    assert health.rankme(orthogonal) == pytest.approx(8, rel=1e-4)
    assert health.rankme(orthogonal[:, :1] @ noise(1, 8)) == pytest.approx(1, rel=1e-4)


def test_evenly_spread_features_have_deviation_one_and_alike_ones_zero():
    alike = np.tile(noise(1, 32), (500, 1))

    assert health.feature_std(noise(500, 32)) == pytest.approx(1, abs=0.03)
    assert health.feature_std(alike) == pytest.approx(0, abs=1e-9)
    assert health.uniformity(noise(500, 32)) == pytest.approx(-3.8, abs=0.1)
    assert health.uniformity(alike) == pytest.approx(0, abs=1e-9)


def test_alignment_is_zero_for_equal_views_and_four_for_opposite_ones():
    views = noise(10, 4)

    assert health.alignment(views, 3 * views) == pytest.approx(0, abs=1e-12)
    assert health.alignment(views, -views) == pytest.approx(4)


def test_dead_features_are_those_that_never_change():
    features = noise(20, 10)
    features[:, :3] = [0, 5, -1]

    assert health.dead_share(features) == pytest.approx(0.3)


@given(seed=st.integers(0, 9), factor=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=15)
def test_no_measure_depends_on_the_scale_or_the_axes_of_features(seed, factor):
    features = noise(30, 6, seed)
    turn, _ = np.linalg.qr(noise(6, 6, seed + 1))

    for measure in (health.rankme, health.uniformity):
        assert measure(factor * features @ turn) == pytest.approx(measure(features), rel=1e-6)
    assert health.feature_std(factor * features) == pytest.approx(health.feature_std(features))


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_few_or_empty_features_give_numbers_and_no_alarm(images, value):
    features = np.full((images, 5), value)

    measured = health.health(features, features, features)

    assert np.isfinite(list(measured.values())).all()
    assert health.alarms(measured, images, 5) == ()


def test_features_that_are_not_numbers_give_no_measure():
    broken = np.full((20, 3), np.nan)

    assert health.health(broken, broken, broken) == {}
    assert health.alarms({}, 20, 3) == ()


def test_features_on_one_point_raise_both_alarms_with_advice():
    point = noise(1, 64) + 1e-3 * noise(200, 64)

    measured = health.health(point, point, point)
    raised = health.alarms(measured, 200, 64)

    assert health.crossed(measured, 200, 64) == ("rankme", "feature_std")
    assert raised[0].startswith("rankme is 1.")
    assert all("collapsing. Lower train.lr" in sentence for sentence in raised)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [("resnet", {"width": 16}), ("resnet", {"width": 32, "depth": 34}), ("vit", {"depth": 4})],
)
def test_an_untrained_encoder_raises_no_alarm(name, knobs):
    torch.manual_seed(0)
    encoder = build_encoder(Named(name=name, knobs=knobs), channels=3, size=(32, 32)).eval()
    coarse = torch.randn(64, 3, 4, 4)
    pictures = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")

    with torch.no_grad():
        features = encoder(pictures).numpy()
    measured = health.health(features, features, features)

    assert health.alarms(measured, 64, encoder.width) == ()


def test_turns_that_are_told_no_better_than_by_chance_are_a_misfit_of_the_method():
    (sentence,) = health.misfits({"upright": 0.04}, 200)

    assert sentence.startswith("upright is 0.04, under 0.15")
    assert sentence.endswith("Choose another method than rotation.")
    assert not list(health.misfits({"upright": 0.5}, 200))
    assert not list(health.misfits({}, 200))
    assert not list(health.misfits({"upright": 0.0}, health.FEWEST - 1))


def test_masks_of_which_most_are_degenerate_are_a_misfit_of_the_method():
    (sentence,) = health.misfits({"dropped": 0.75}, 200)

    assert sentence.startswith("dropped is 0.75, above 0.5")
    assert "method.polarity" in sentence
    assert not list(health.misfits({"dropped": 0.4}, 200))
