"""Images larger than what a network learned from are asked window by window."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_runs import tuning

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.masks import Masks
from confrere_client.finetune import segmentation
from confrere_client.finetune.judge import Exam
from confrere_client.source import Record
from confrere_common.model import build_model
from confrere_common.task import FineTask

SIDE = 16


def outlines() -> FineTask:
    task = build_model(tuning("segmentation", knobs={"width": 4}), 0)
    assert isinstance(task, FineTask)
    return task.eval()


def test_windows_give_each_voxel_probabilities_of_all_classes() -> None:
    task = outlines()
    images_BCYX = torch.randn(2, 1, 3 * SIDE, 2 * SIDE + 5)

    found = segmentation.in_windows(task, images_BCYX)

    assert found.shape == (2, 4, 3 * SIDE, 2 * SIDE + 5)
    assert torch.allclose(found.sum(1), torch.ones_like(found[:, 0]), atol=1e-5)


def test_a_single_window_is_the_network_s_own_answer() -> None:
    task, images_BCYX = outlines(), torch.randn(1, 1, SIDE, SIDE)

    with torch.inference_mode():
        assert torch.allclose(
            segmentation.in_windows(task, images_BCYX), task.predict(images_BCYX), atol=1e-5
        )


def test_what_is_flat_is_answered_alike_in_every_window() -> None:
    task = outlines()
    with torch.no_grad():
        for parameter in task.head.parameters():
            parameter.zero_()

    found = segmentation.in_windows(task, torch.randn(1, 1, 40, 40))

    assert torch.allclose(found, torch.full_like(found, 0.25))


def test_a_judge_asks_larger_images_by_windows(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 40), np.uint8)
    mask = (pixels[0, 0] > 128).astype(np.uint8)
    records = [
        Record(name=f"i{n}", decode=lambda n=n: pixels[n], patient=f"p{n}", mask=lambda: mask)
        for n in range(3)
    ]
    images = Images(
        pixels=pixels, catalog=catalog_of(records), skipped=(), digest="",
        masks=Masks(records=records, home=tmp_path, shape=(40, 40)),
    )  # fmt: skip
    rows = np.arange(3)
    exam = Exam(
        run=tuning("segmentation"), images=images, learned=rows, asked=rows,
        device=torch.device("cpu"),
    )  # fmt: skip

    found = segmentation.answers(outlines(), exam)

    assert found["dice_NC"].shape == (3, 3)
    assert segmentation.found_masks(outlines(), exam, rows).shape == (3, 40, 40)

    # Of four volumes of 64 voxels a side distances took 0.59 of 0.60 s of processor.
    counted = segmentation.answers(outlines(), replace(exam, counted=True))
    assert sorted(counted) == ["dice_NC", "empty_NC", "iou_NC"]
    assert np.array_equal(counted["dice_NC"], found["dice_NC"])
