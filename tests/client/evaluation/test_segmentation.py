"""Masks against each other, with values worked out by hand, and overlaps against MONAI's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou

from confrere_client.evaluation.segmentation import Cases, judged, over_classes, structures
from confrere_common.errors import DataError


def square(top: int, left: int, side: int = 4, image: int = 16, kind: int = 1) -> np.ndarray:
    mask_YX = np.zeros((image, image), np.int64)
    mask_YX[top : top + side, left : left + side] = kind
    return mask_YX


def test_masks_that_are_equal_reach_the_best() -> None:
    mask_NYX = square(2, 3)[None]

    found = judged(mask_NYX, mask_NYX, 2)

    assert (found.dice_NC, found.iou_NC, found.hd95_NC) == (1, 1, 0)


def test_a_shift_of_two_is_worked_out_by_hand() -> None:
    found = judged(square(2, 5)[None], square(2, 3)[None], 2)

    # 8 of 16 and 16 voxels are shared; the far column is 2 voxels from the other square.
    assert found.dice_NC == pytest.approx(0.5)
    assert found.iou_NC == pytest.approx(8 / 24)
    assert found.hd95_NC == pytest.approx(2)


def test_without_distances_the_rest_is_the_same() -> None:
    whole = judged(square(2, 5)[None], square(2, 3)[None], 2)
    found = judged(square(2, 5)[None], square(2, 3)[None], 2, distances=False)

    assert (found.dice_NC, found.iou_NC) == (whole.dice_NC, whole.iou_NC)
    assert np.isnan(found.hd95_NC).all()


def test_distances_are_in_millimetres_along_the_axis_of_the_shift() -> None:
    across = judged(square(2, 5)[None], square(2, 3)[None], 2, spacing_mm=(10, 0.5))
    along = judged(square(4, 3)[None], square(2, 3)[None], 2, spacing_mm=(10, 0.5))

    assert across.hd95_NC == pytest.approx(1)
    assert along.hd95_NC == pytest.approx(20)


def test_volumes_are_measured_in_three_axes() -> None:
    truth_NZYX, found_NZYX = np.zeros((2, 1, 12, 12, 12), np.int64)
    truth_NZYX[0, 2:6, 2:6, 2:6] = 1
    found_NZYX[0, 5:9, 2:6, 2:6] = 1

    found = judged(found_NZYX, truth_NZYX, 2, spacing_mm=(2, 1, 1))

    assert found.dice_NC == pytest.approx(0.25)
    assert found.hd95_NC == pytest.approx(6)


@pytest.mark.parametrize(
    ("found", "truth", "overlap", "distance"),
    [
        (None, None, 1, 0),
        (None, (2, 3), 0, math.hypot(16, 16)),
        ((2, 3), None, 0, math.hypot(16, 16)),
    ],
)
def test_empty_masks_count_as_the_table_says(found, truth, overlap, distance) -> None:
    masks = [np.zeros((16, 16), np.int64) if at is None else square(*at) for at in (found, truth)]

    result = judged(masks[0][None], masks[1][None], 2)

    assert result.dice_NC == overlap
    assert result.iou_NC == overlap
    assert result.hd95_NC == pytest.approx(distance)


def test_classes_are_judged_apart_and_background_is_not() -> None:
    truth_YX = square(0, 0) + square(8, 8, kind=2)
    found_YX = square(0, 0) + square(8, 8, kind=3)

    found = judged(found_YX[None], truth_YX[None], 4)

    assert found.dice_NC.tolist() == [[1, 0, 0]]
    assert found.truth_empty_NC.tolist() == [[False, False, True]]
    assert found.found_empty_NC.tolist() == [[False, True, False]]


@given(seed=st.integers(0, 1000), classes=st.integers(2, 5), deep=st.booleans())
@settings(deadline=None, max_examples=25)
def test_overlaps_are_monai_s_where_masks_are_empty_too(
    seed: int, classes: int, deep: bool
) -> None:
    generator = np.random.default_rng(seed)
    shape = (4, 6, 5, 7) if deep else (4, 6, 7)
    # Some classes are rare, so that cases lack them in truth, in the answer, or in both.
    chances = generator.dirichlet([0.2] * classes)
    found, truth = generator.choice(classes, (2, *shape), p=chances)

    ours = judged(found, truth, classes, distances=False)

    kinds = np.arange(classes)
    hot = [
        torch.from_numpy(np.moveaxis(mask[..., None] == kinds, -1, 1).astype(np.float32))
        for mask in (found, truth)
    ]
    for value, reference in ((ours.dice_NC, compute_dice), (ours.iou_NC, compute_iou)):
        due = reference(*hot, include_background=False, ignore_empty=False)
        np.testing.assert_allclose(value, due.numpy(), rtol=1e-6)


def test_a_class_that_no_case_has_leaves_the_mean_over_classes() -> None:
    values_NC = np.array([[0.5, 1, 0.1], [0.7, 1, 0.3]])
    empty_NC = np.array([[False, True, True], [False, True, False]])

    assert over_classes(values_NC, empty_NC).tolist() == pytest.approx([0.3, 0.5])
    assert np.isnan(over_classes(values_NC, np.ones((2, 3), bool))).all()


def test_structures_tell_how_often_a_mask_was_empty_and_how_cases_lie() -> None:
    nothing = np.zeros((16, 16), np.int64)
    found_NYX = np.stack([square(2, 3), nothing, square(1, 1), nothing])
    truth_NYX = np.stack([square(2, 3), square(2, 3), nothing, nothing])
    parts = [judged(found_NYX[:2], truth_NYX[:2], 2), judged(found_NYX[2:], truth_NYX[2:], 2)]
    right = judged(truth_NYX, truth_NYX, 2)

    alone = structures([Cases.joined(parts)], ["lesion"])["lesion"]
    twice = structures([Cases.joined(parts), right], ["lesion"])["lesion"]

    assert (alone.cases, alone.truth_empty, alone.missed_S, alone.invented_S) == (4, 2, (1,), (1,))
    assert (twice.missed_S, twice.invented_S) == ((1, 0), (1, 0))
    assert (alone.dice.lower, alone.dice.median, alone.dice.upper) == (0, 0.5, 1)
    assert twice.dice.median == pytest.approx(0.75)
    assert alone.hd95.median == pytest.approx(math.hypot(16, 16) / 2)


def test_an_odd_pair_of_masks_is_refused_with_advice() -> None:
    mask_NYX = square(2, 3)[None]

    with pytest.raises(DataError, match="resampled to the truth's grid"):
        judged(mask_NYX[:, :8], mask_NYX, 2)
    with pytest.raises(DataError, match="true masks hold classes 0 to 255, but there are 0 to 1"):
        judged(mask_NYX, mask_NYX * 255, 2)
    with pytest.raises(DataError, match="predicted masks hold classes -1 to 0"):
        judged(-mask_NYX, mask_NYX, 2)
    with pytest.raises(DataError, match="a spacing of 3 axes does not fit masks of 2"):
        judged(mask_NYX, mask_NYX, 2, spacing_mm=(1, 1, 1))
