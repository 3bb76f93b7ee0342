"""Boxes against boxes, with every precision worked out by hand, and against MONAI's COCO.

torchmetrics has its average precision from pycocotools and torchvision, which are not here.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou

from confrere_client.evaluation import detection
from confrere_client.evaluation.detection import AP, FROC, Boxes, measures
from confrere_common.errors import DataError


def found(*rows: tuple[float, ...]) -> Boxes:
    """Return boxes of rows (x, y, side, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    corners = table[:, :2]
    return Boxes(
        boxes=np.concatenate([corners, corners + table[:, 2:3]], axis=1),
        scores=table[:, 3],
        labels=table[:, 4].astype(np.int64),
    )


def truth(*rows: tuple[float, ...]) -> Boxes:
    return found(*((x, y, side, 1.0, kind) for x, y, side, kind in rows))


def test_overlap_is_worked_out_by_hand() -> None:
    one, other = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 6, 4], [4, 4, 8, 8], [1, 1, 1, 3]])

    assert detection.iou(one, other)[0] == pytest.approx([8 / 24, 0, 0])
    cube, beside = np.array([[0.0, 0, 0, 2, 2, 2]]), np.array([[1.0, 0, 0, 3, 2, 2]])
    assert detection.iou(cube, beside)[0] == pytest.approx([4 / 12])


@given(seed=st.integers(0, 1000), axes=st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=25)
def test_overlap_is_monai_s(seed: int, axes: int) -> None:
    generator = np.random.default_rng(seed)
    low, side = generator.uniform(0, 9, (2, 12, axes))
    boxes = np.concatenate([low, low + side + 0.1], axis=1)

    np.testing.assert_allclose(
        detection.iou(boxes[:7], boxes[7:]), box_iou(boxes[:7], boxes[7:]), rtol=1e-5, atol=1e-7
    )


COCO = "AP over 0.5 to 0.95"


def told(seen: Sequence[Boxes], due: Sequence[Boxes], names: str = "a") -> dict[str, float]:
    """Return every measure, each image counting once; a letter of *names* is a class."""
    once_1N = np.ones((1, len(due)))
    return {name: float(of(once_1N)[0]) for name, of in measures(seen, due, tuple(names)).items()}


def monai_s(seen: Sequence[Boxes], due: Sequence[Boxes], classes: str) -> dict[str, float]:
    """Return COCO's average precision of each class, by MONAI."""
    coco = COCOMetric(
        list(classes), iou_list=[0.5], iou_range=(0.5, 0.95, 0.05), max_detection=[100],
        verbose=False,
    )  # fmt: skip
    found = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=coco.iou_thresholds,
        pred_boxes=[one.boxes for one in seen],
        pred_classes=[one.labels for one in seen],
        pred_scores=[one.scores for one in seen],
        gt_boxes=[one.boxes for one in due],
        gt_classes=[one.labels for one in due],
    )
    return coco(found)[0]


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_average_precision_is_monai_s(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # 13 true boxes of a class: MONAI's recalls in float32 miss 0.7 where 7 of 10 are found.
    corners, sides = generator.uniform(0, 60, (13, 2, 2)), generator.uniform(6, 12, (13, 2))
    due = [
        truth(*((*corners[n, kind], sides[n, kind], kind) for n in part for kind in (0, 1)))
        for part in np.array_split(np.arange(13), 5)
    ]
    seen = [
        Boxes(
            boxes=image.boxes + generator.normal(0, 0.7, image.boxes.shape),
            labels=np.where(generator.random(len(image.labels)) < 0.2, 1 - image.labels,
                            image.labels),
            scores=generator.random(len(image.labels)),
        )
        for image in due
    ]  # fmt: skip

    ours, theirs = told(seen, due, "ab"), monai_s(seen, due, "ab")

    for name in "ab":
        assert ours[f"AP at 0.5 of {name}"] == pytest.approx(
            theirs[f"{name}_AP_IoU_0.50_MaxDet_100"], abs=1e-6
        )
    assert ours[AP] == pytest.approx(theirs["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    assert ours[COCO] == pytest.approx(theirs["mAP_IoU_0.50_0.95_0.05_MaxDet_100"], abs=1e-6)


def test_all_found_and_nothing_else_is_one() -> None:
    due = [truth((0, 0, 4, 0), (8, 8, 4, 1)), truth((2, 2, 4, 0))]
    seen = [found((0, 0, 4, 0.9, 0), (8, 8, 4, 0.4, 1)), found((2, 2, 4, 0.3, 0))]

    result = told(seen, due, "ab")

    assert result == dict.fromkeys(result, 1)
    assert {AP, COCO, "FROC mean", "AP at 0.5 of b", *FROC} <= result.keys()


def test_a_false_alarm_between_two_hits_is_worked_out_by_hand() -> None:
    due = [truth((0, 0, 4, 0), (20, 20, 4, 0))]
    seen = [found((0, 0, 4, 0.9, 0), (50, 50, 4, 0.8, 0), (20, 20, 4, 0.7, 0))]

    result = told(seen, due)

    # Precision is 1 at recalls 0 to 0.50 (51 points), then 2/3 (50 points).
    assert result[AP] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # Fewer than one false alarm in this image leaves the first hit alone.
    assert [result[name] for name in FROC] == [0.5, 0.5, 0.5, 1, 1, 1, 1]
    assert list(FROC) == [f"FROC at {at}" for at in ("1/8", "1/4", "1/2", 1, 2, 4, 8)]
    assert result["FROC mean"] == pytest.approx((3 * 0.5 + 4) / 7)


def test_a_lesion_that_is_pointed_at_is_found_though_it_is_not_outlined() -> None:
    # Shifted by 2 of 4: an overlap of 8 / 24, enough for FROC and for no average precision.
    result = told([found((2, 0, 4, 0.9, 0))], [truth((0, 0, 4, 0))])

    assert result["FROC mean"] == 1
    assert result[AP] == result["found of a at 1 false alarm"] == 0


def test_a_second_box_on_one_object_is_a_false_alarm() -> None:
    due = [truth((0, 0, 4, 0), (20, 20, 4, 0))]
    seen = [found((0, 0, 4, 0.9, 0), (0, 0, 4, 0.8, 0))]

    assert told(seen, due)[AP] == pytest.approx(51 / 101)


def test_a_box_that_fits_loosely_counts_at_loose_overlaps_alone() -> None:
    # Shifted by 1 of 9: an overlap of 72 / 90 = 0.8, enough for 7 of the 10 thresholds.
    result = told([found((1, 0, 9, 0.9, 0))], [truth((0, 0, 9, 0))])

    assert result[AP] == 1
    assert result[COCO] == pytest.approx(0.7)


def test_a_class_without_a_true_box_takes_no_part() -> None:
    due = [truth((0, 0, 4, 0))]
    seen = [found((0, 0, 4, 0.5, 0), (9, 9, 4, 0.9, 1))]

    result = told(seen, due, "ab")

    assert np.isnan(result["AP at 0.5 of b"])
    assert result[AP] == result["FROC mean"] == 1


def test_an_image_without_an_object_counts_through_its_false_alarms() -> None:
    due = [truth((0, 0, 4, 0)), truth()]
    seen = [found((0, 0, 4, 0.5, 0)), found((9, 9, 4, 0.9, 0))]

    assert told(seen, due)[AP] == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_is_unknown() -> None:
    missed = told([found()], [truth((0, 0, 4, 0))])
    nothing = told([found((0, 0, 4, 1, 0))], [truth()])

    assert missed[AP] == missed["FROC at 8"] == 0
    assert np.isnan([nothing[AP], nothing["FROC mean"]]).all()


@given(seed=st.integers(0, 30))
@settings(deadline=None, max_examples=10)
def test_an_image_of_weight_two_counts_as_two_images(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 12, size=(5, 6, 2))
    due = [truth(*((x, y, 6, 0) for x, y in image[:3])) for image in rows]
    # Scores differ, so that it does not matter in what order equal ones stand.
    seen = [
        found(*((x + generator.integers(3), y, 6, generator.random(), 0) for x, y in image))
        for image in rows
    ]
    weights_N = generator.integers(0, 3, size=5)
    weights_N[0] = 1
    twice = np.repeat(np.arange(5), weights_N)

    plain = detection.matched(seen, due, 0, 0.5)
    repeated = detection.matched([seen[n] for n in twice], [due[n] for n in twice], 0, 0.5)

    weighed = detection.average_precision(plain)(weights_N[None].astype(float))
    assert weighed == pytest.approx(detection.average_precision(repeated)(np.ones((1, len(twice)))))
    for limit, value in detection.froc(plain).items():
        due_value = detection.froc(repeated)[limit](np.ones((1, len(twice))))
        assert value(weights_N[None].astype(float)) == pytest.approx(due_value)


def test_images_that_do_not_pair_up_and_odd_boxes_are_refused() -> None:
    with pytest.raises(DataError, match="1 images do not fit the truth of 2"):
        told([found()], [truth(), truth()])
    odd = Boxes(boxes=np.zeros((2, 5)), labels=np.zeros(2, int), scores=np.ones(2))
    with pytest.raises(DataError, match=r"image 0 have the shape \(2, 5\)"):
        told([odd], [truth()])
