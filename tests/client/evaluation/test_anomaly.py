"""Scores of abnormality, against scikit-learn and against curves worked out by hand."""

import numpy as np
import pytest
from sklearn import metrics

from confrere_client.evaluation import anomaly
from confrere_common.errors import DataError


def test_the_measures_by_image_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    abnormal_N = generator.random(200) < 0.3
    scores_N = np.round(generator.normal(size=200) + abnormal_N, 1)

    found = anomaly.image_figures(scores_N, abnormal_N, np.arange(200))

    precision, recall, _ = metrics.precision_recall_curve(abnormal_N, scores_N)
    false_T, true_T, _ = metrics.roc_curve(abnormal_N, scores_N, drop_intermediate=False)
    due = {
        "auroc": metrics.roc_auc_score(abnormal_N, scores_N),
        "average_precision": metrics.average_precision_score(abnormal_N, scores_N),
        "best_f1": (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max(),
        "false_alarms_at_95": false_T[true_T >= 0.95].min(),
    }
    for name, value in due.items():
        figure = found[name]
        assert figure is not None
        assert figure.mean == pytest.approx(value), name
        assert figure.low <= figure.mean <= figure.high


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_alone_has_no_figure(kind: bool) -> None:
    found = anomaly.image_figures(np.arange(5.0), np.full(5, kind), np.arange(5))

    assert found["auroc"] is None
    assert found["false_alarms_at_95"] is None


def masked() -> np.ndarray:
    """Return two images: one with regions of 4 and of 1 voxel, one that is normal."""
    masks_NYX = np.zeros((2, 5, 5), np.int64)
    masks_NYX[0, :2, :2] = 1
    masks_NYX[0, 4, 4] = 7
    return masks_NYX


def test_a_perfect_map_reaches_one_and_a_flat_one_half_of_the_limit() -> None:
    masks_NYX = masked()

    perfect = anomaly.voxel_result(masks_NYX > 0, masks_NYX)
    flat = anomaly.voxel_result(np.zeros((2, 5, 5)), masks_NYX)

    assert (perfect.auroc, perfect.average_precision, perfect.pro) == pytest.approx((1, 1, 1))
    assert perfect.regions == 2
    assert flat.auroc == pytest.approx(0.5)
    # Along the diagonal, up to 0.3, the mean overlap is 0.15.
    assert flat.pro == pytest.approx(0.15)


def test_a_region_counts_whole_whatever_its_size() -> None:
    masks_NYX = masked()
    large_NYX, small_NYX = np.zeros((2, 2, 5, 5))
    large_NYX[0, :2, :2] = 1
    small_NYX[0, 4, 4] = 1

    large, small = (anomaly.voxel_result(maps, masks_NYX) for maps in (large_NYX, small_NYX))

    # One region at no false alarm, the other along the diagonal: 0.5 + 0.5 * 0.15.
    assert large.pro == pytest.approx(0.575)
    assert small.pro == pytest.approx(0.575)
    assert large.auroc > small.auroc


def test_voxels_that_touch_at_a_corner_are_one_region_and_images_are_apart() -> None:
    masks_NZYX = np.zeros((2, 3, 3, 3), np.int64)
    masks_NZYX[0, 0, 0, 0] = masks_NZYX[0, 1, 1, 1] = masks_NZYX[1, 0, 0, 0] = 1

    assert anomaly.voxel_result(np.zeros((2, 3, 3, 3)), masks_NZYX).regions == 2


def test_no_region_or_no_normal_voxel_gives_nan() -> None:
    none = anomaly.voxel_result(np.ones((1, 4, 4)), np.zeros((1, 4, 4)))
    all_of_it = anomaly.voxel_result(np.ones((1, 4, 4)), np.ones((1, 4, 4)))

    assert np.isnan([none.pro, none.auroc, all_of_it.pro, all_of_it.auroc]).all()


def test_maps_that_do_not_fit_or_are_broken_are_refused() -> None:
    with pytest.raises(DataError, match="one map of each mask's shape"):
        anomaly.voxel_result(np.ones((1, 4, 4)), np.ones((2, 4, 4)))
    with pytest.raises(DataError, match="NaN or infinite"):
        anomaly.image_figures(np.array([np.nan, 1]), np.array([True, False]), np.arange(2))


def test_a_sweep_gives_the_same_pro_and_area_as_all_thresholds_do() -> None:
    generator = np.random.default_rng(1)
    masks_NYX = np.zeros((6, 24, 24), np.int64)
    masks_NYX[0, 2:9, 3:8] = masks_NYX[1, 15:20, 4:6] = masks_NYX[1, 1:3, 1:3] = 1
    maps_NYX = generator.normal(size=masks_NYX.shape) + 1.5 * masks_NYX
    once_1N = np.ones((1, 6))

    found, due = anomaly.sweep(maps_NYX, masks_NYX), anomaly.voxel_result(maps_NYX, masks_NYX)

    assert anomaly.pro(found, once_1N)[0] == pytest.approx(due.pro, abs=0.005)
    assert anomaly.voxel_auroc(found, once_1N)[0] == pytest.approx(due.auroc, abs=0.005)


def test_a_sweep_of_known_maps_has_known_figures() -> None:
    masks_NYX = masked()
    large_NYX = np.zeros((2, 5, 5))
    large_NYX[0, :2, :2] = 1
    weights_DN = np.array([[1.0, 1.0], [0.0, 1.0]])

    perfect = anomaly.pro(anomaly.sweep(masks_NYX > 0, masks_NYX), weights_DN)
    flat = anomaly.pro(anomaly.sweep(np.zeros((2, 5, 5)), masks_NYX), weights_DN)
    large = anomaly.pro(anomaly.sweep(large_NYX, masks_NYX), weights_DN)

    assert perfect[0] == pytest.approx(1)
    assert flat[0] == pytest.approx(0.15)
    assert large[0] == pytest.approx(0.575)
    assert np.isnan(perfect[1])  # that draw holds no region


def test_an_image_that_counts_twice_is_as_good_as_two() -> None:
    generator = np.random.default_rng(2)
    masks_NYX = np.zeros((3, 12, 12), np.int64)
    masks_NYX[0, 2:6, 2:6] = masks_NYX[2, 8:10, 3:9] = 1
    maps_NYX = generator.normal(size=masks_NYX.shape) + masks_NYX

    # Of three images, the first again: by its weight, and as a fourth at the same thresholds.
    found = anomaly.sweep(maps_NYX, masks_NYX)
    again = anomaly.Sweep(**{k: v[[0, 1, 2, 0]] for k, v in vars(found).items()})

    weighed = anomaly.pro(found, np.array([[2.0, 1.0, 1.0]]))
    assert weighed == pytest.approx(anomaly.pro(again, np.ones((1, 4))))
