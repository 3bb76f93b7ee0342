"""Every judge's figures of two networks' answers in one list are those of each by itself."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from confrere_client.data.images import Images, open_images
from confrere_client.finetune.judge import Answers, Exam, Judge, both, judge_of
from confrere_common.config import Run
from confrere_common.loading import COMMON_FAMILIES, parse_run
from confrere_common.task import TASKS

COUNT = 40
KINDS = ("fibroma", "keratosis", "melanoma", "nevus")
KNOBS: dict[str, dict[str, Any]] = {"anomaly": {"normal": "nevus"}}


def run_of(task: str) -> Run:
    source = {"name": "phantom", "modality": "lesion", "images": COUNT, "patients": 20}
    plain = {
        "name": "judged",
        "stage": "finetune",
        "data": {"source": {**source, "sites": 1, "image_px": 16}, "image_px": 16},
        "encoder": {"name": "resnet", "width": 8, "stem": "small"},
        "finetune": {"task": {"name": task, **KNOBS.get(task, {})}, "classes": CLASSES[task]},
    }
    return parse_run(plain, COMMON_FAMILIES)


CLASSES = {
    "anomaly": list(KINDS),
    "classification": list(KINDS),
    "detection": ["lesion"],
    "retrieval": list(KINDS),
    "segmentation": ["1"],
}


@cache
def lesions(folder: str) -> Images:
    source = run_of("classification").data.source
    return open_images(source, folder=Path(folder), image_px=16, cache_dir=Path(folder))


def exam_of(task: str, folder: str) -> Exam:
    images = lesions(folder)
    asked = np.sort(np.random.default_rng(1).permutation(len(images.catalog))[:30])
    return Exam(
        run=run_of(task), images=images, learned=asked[:0], asked=asked, device=torch.device("cpu")
    )


def answers(task: str, exam: Exam, seed: int) -> Answers:
    """Return answers as a network of this task might give, drawn at random."""
    random, count = np.random.default_rng(seed), len(exam.asked)
    if task == "classification":
        return {"scores_NK": random.dirichlet([1] * len(KINDS), count)}
    if task == "segmentation":
        names = ("dice_NC", "iou_NC", "far_NC")
        cases = {name: random.random((count, 1)) for name in names}
        return {**cases, "empty_NC": random.random((count, 1)) < 0.2,
                "nothing_NC": random.random((count, 1)) < 0.2}  # fmt: skip
    if task == "detection":
        low = random.uniform(0, 8, (count, 5, 2))
        sure = np.stack([random.random((count, 5)), np.zeros((count, 5))], axis=2)
        return {"found_NQ": np.concatenate([low, low + 8, sure], axis=2)}
    names = ("foretold", "knn") if task == "anomaly" else ("P@5", "mAP")
    return {name: random.random(count) for name in names}


def headline(judge: Judge, found: Answers, exam: Exam, weights_N: np.ndarray) -> float:
    return float(judge.figures(found, exam)[judge.HEADLINE](weights_N[None])[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("lesions"))


@pytest.mark.parametrize("task", TASKS.names())
def test_each_of_two_networks_in_one_list_has_the_figure_that_it_has_alone(
    task: str, folder: str
) -> None:
    exam = exam_of(task, folder)
    judge = judge_of(exam.run)
    ours, theirs = answers(task, exam, 0), answers(task, exam, 1)
    weights_N = np.random.default_rng(2).integers(0, 3, len(exam.asked)).astype(float)
    nobody_N = np.zeros(len(weights_N))

    weighed = both(judge, ours, theirs, exam)

    mine, other = (
        weighed(np.concatenate(pair)[None])[0]
        for pair in ((weights_N, nobody_N), (nobody_N, weights_N))
    )
    assert mine == pytest.approx(headline(judge, ours, exam, weights_N))
    assert other == pytest.approx(headline(judge, theirs, exam, weights_N))
    assert mine != pytest.approx(other)


@pytest.mark.parametrize(
    ("task", "name"), [("classification", "scores_NK"), ("anomaly", "foretold")]
)
def test_the_scale_of_a_network_s_scores_moves_nothing_in_the_list(
    task: str, name: str, folder: str
) -> None:
    exam = exam_of(task, folder)
    judge, ours, theirs = judge_of(exam.run), answers(task, exam, 0), answers(task, exam, 1)
    mixed = np.random.default_rng(3).random((50, 2 * len(exam.asked))) < 0.5

    plain = both(judge, ours, theirs, exam)
    bent = both(judge, ours, {**theirs, name: 5 + theirs[name] ** 3}, exam)

    assert bent(mixed.astype(float)) == pytest.approx(plain(mixed.astype(float)))
