"""Images larger than what a network learned from are asked window by window."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from shelf import Mapped
from shelf import noise as noise_of
from tiny_runs import tuning

from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images, images_of
from confrere_client.data.masks import Masks
from confrere_client.finetune import segmentation
from confrere_client.finetune.judge import Exam
from confrere_client.finetune.pictures.segmentation import galleries
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


class Bright(torch.nn.Module):
    """An answer that is right: voxels above the middle are of the first class."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.size = (size,) * 3  # type: ignore[assignment]
        self.classes, self.scale = ("a",), torch.nn.Parameter(torch.ones(()))

    def predict(self, images_BCZYX: torch.Tensor) -> torch.Tensor:
        assert images_BCZYX.shape[2:] == self.encoder.size
        return torch.cat([-images_BCZYX, images_BCZYX], 1).mul(9).softmax(1) * self.scale


def test_volumes_of_which_runs_take_crops_are_judged_whole_and_in_mm(tmp_path: Path) -> None:
    """One is of the window's size, one larger, one too small along an axis."""
    volumes = [noise_of(1, *shape, seed=1) for shape in ((8, 8, 8), (12, 14, 10), (5, 16, 9))]
    masks = [(one[0] > 127).astype(np.uint8) for one in volumes]
    masks[1][...] = 0
    masks[1][0, 0, 0] = 1
    images = images_of(Mapped(volumes, masks), image_px=64, crop_px=(8,), cache_dir=tmp_path)
    rows = np.arange(3)
    exam = Exam(
        run=tuning("segmentation", classes=["a"]), images=images, learned=rows, asked=rows,
        device=torch.device("cpu"),
    )  # fmt: skip
    task = Bright(8)

    found = segmentation.answers(task, exam)  # type: ignore[arg-type]

    assert found["dice_NC"][[0, 2], 0].tolist() == [1.0, 1.0]
    there = (volumes[1] > 127).sum()
    hit = volumes[1][0, 0, 0, 0] > 127
    assert found["dice_NC"][1, 0] == 2 * hit / (there + 1)
    # 2 mm along Z, 1 along Y and X: as far as 11 steps of 2, 13 and 9 of 1
    assert 5 < found["mm_NC"][1, 0] <= np.hypot(22, np.hypot(13, 9))
    assert found["far_NC"][1, 0] == found["mm_NC"][1, 0] / np.hypot(24, np.hypot(14, 10))
    assert "hd95 mm" in segmentation.figures(found, exam)
    assert segmentation.found_masks(task, exam, rows[1:2]).shape == (1, 12, 14, 10)  # type: ignore[arg-type]
    assert len(galleries(task, exam, found)[0].rows) == 3  # type: ignore[arg-type]


def test_without_every_spacing_no_millimetre_is_told(tmp_path: Path) -> None:
    volumes = [noise_of(1, 9, 9, 9, seed=seed) for seed in range(2)]
    images = images_of(
        Mapped(volumes, [(one[0] > 127).astype(np.uint8) for one in volumes]),
        image_px=64, crop_px=(8,), cache_dir=tmp_path,
    )  # fmt: skip
    rows = np.arange(2)
    exam = Exam(
        run=tuning("segmentation", classes=["a"]), learned=rows, asked=rows,
        images=replace(images, spacings_mm=[(1.0, 1.0, 1.0), ()]), device=torch.device("cpu"),
    )  # fmt: skip

    assert "mm_NC" not in segmentation.answers(Bright(8), exam)  # type: ignore[arg-type]
