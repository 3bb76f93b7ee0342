"""What a segmentation is judged by: means over the structures that the images asked about have."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import drawn_images, mask_of
from tiny_runs import SIDE, tuning

from confrere_client.evaluation.paired import InUnits, weighed_figure
from confrere_client.evaluation.segmentation import judged
from confrere_client.finetune import segmentation
from confrere_client.finetune.judge import Answers, Exam, judge_of, score
from confrere_client.finetune.pictures import segmentation as painted
from confrere_common.model import build_model
from confrere_common.task import FineTask

NAMES = ("a", "b", "c", "d", "e")
TRUTH = (("c",), ("c",), (), ("c",))
"""Of five structures that the run names, the test has one."""


def exam_on(folder: Path, drawn: tuple[tuple[str, ...], ...] = TRUTH) -> Exam:
    images = drawn_images(folder, drawn, NAMES)
    rows = np.arange(len(drawn))
    run = tuning("segmentation", classes=list(NAMES), knobs={"width": 4})
    return Exam(run=run, images=images, learned=rows[:0], asked=rows, device=torch.device("cpu"))


def answered(exam: Exam, found: tuple[tuple[str, ...], ...]) -> Answers:
    """Return the answers of a network that finds the named structures, where they are."""
    truth = exam.images.known("mask", exam.asked).numpy()
    masks = np.stack([mask_of(names, NAMES) for names in found])
    cases = judged(masks, truth, len(NAMES) + 1)
    return {
        "dice_NC": cases.dice_NC, "iou_NC": cases.iou_NC, "empty_NC": cases.truth_empty_NC,
        "far_NC": cases.hd95_NC / np.hypot(SIDE, SIDE), "mm_NC": cases.hd95_NC,
        "nothing_NC": cases.found_empty_NC,
    }  # fmt: skip


def told(exam: Exam, found: tuple[tuple[str, ...], ...]) -> dict[str, float]:
    once_1N = np.ones((1, len(exam.asked)))
    figures = segmentation.figures(answered(exam, found), exam)
    return {name: float(of(once_1N)[0]) for name, of in figures.items()}


def test_finding_nothing_is_worth_nothing_however_many_structures_a_run_names(
    tmp_path: Path,
) -> None:
    exam = exam_on(tmp_path)

    nothing = told(exam, ((), (), (), ()))

    # Of the one that is there: three images that have it, and one that is rightly left alone.
    assert nothing["dice"] == nothing["iou"] == 1 / 4
    assert nothing["hd95 over diagonal"] == pytest.approx(3 / 4)
    assert nothing["hd95 mm"] == pytest.approx(3 / 4 * np.hypot(SIDE, SIDE))
    judge = judge_of(exam.run)
    assert score(judge, answered(exam, ((), (), (), ())), exam) == 1 / 4
    assert told(exam, TRUTH)["dice"] == 1


def test_of_a_structure_that_no_image_has_nothing_is_said(tmp_path: Path) -> None:
    exam = exam_on(tmp_path)

    alone, more = told(exam, TRUTH), told(exam, (("c", "a"), ("c",), (), ("c",)))

    assert alone["dice of c"] == 1
    assert np.isnan([alone[f"dice of {name}"] for name in "abde"]).all()
    assert more["dice"] == 1  # invented is told by itself: see told_structures
    invented = segmentation.told_structures([answered(exam, (("a",), (), (), ()))], exam)
    assert invented["a"].invented_S == (1,)


def test_without_any_structure_no_mean_is_known(tmp_path: Path) -> None:
    exam = exam_on(tmp_path, ((), ()))

    answers = answered(exam, ((), ("b",)))
    figures = segmentation.figures(answers, exam)

    patients = exam.images.catalog.patients[exam.asked]
    assert isinstance(figures["hd95 mm"], InUnits)
    assert [weighed_figure([figure], patients) for figure in figures.values()] == [None] * 9
    assert np.isnan(score(judge_of(exam.run), answers, exam))


def test_the_pictures_rank_cases_by_the_structures_that_are_there(tmp_path: Path) -> None:
    exam = exam_on(tmp_path, (("c",),) * 5)
    model = build_model(exam.run, 0).eval()
    assert isinstance(model, FineTask)

    (gallery,) = painted.galleries(model, exam, answered(exam, ((), *[("c",)] * 3, ())))

    assert {row.title for row in gallery.rows} == {
        "best: Dice 1.000", "median: Dice 1.000", "worst: Dice 0.000"
    }  # fmt: skip
