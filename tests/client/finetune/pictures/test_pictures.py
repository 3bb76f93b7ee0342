"""Pictures of what a task answers: every task has some, and they show what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import SIDE, tuning

from confrere_client.data.images import Images, open_images
from confrere_client.finetune.judge import Exam, judge_of
from confrere_client.finetune.pictures import gallery, paint
from confrere_client.finetune.pictures.classification import saliency
from confrere_common.family import Named
from confrere_common.model import build_model
from confrere_common.task import TASKS, FineTask

KNOBS: dict[str, dict[str, Any]] = {
    "anomaly": {"normal": "nevus", "bottleneck": 8},
    "detection": {"width": 16},
    "segmentation": {"width": 4},
}
CLASSES = {"detection": ["lesion"], "segmentation": ["lesion"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return lesions with labels, masks and boxes."""
    knobs = {"modality": "lesion", "images": 24, "patients": 12, "sites": 1, "image_px": SIDE}
    return open_images(
        Named(name="phantom", knobs=knobs), folder=Path(), image_px=SIDE, channels=1,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


def asked(name: str, images: Images) -> tuple[FineTask, Exam]:
    classes = CLASSES.get(name, list(images.catalog.classes))
    knobs = KNOBS.get(name, {})
    if name == "anomaly":
        knobs = {**knobs, "normal": classes[0]}
    run = tuning(name, knobs=knobs, classes=classes)
    task = build_model(run, 0)
    assert isinstance(task, FineTask)
    exam = Exam(
        run=run, images=images, learned=np.arange(12), asked=np.arange(12, 24),
        device=torch.device("cpu"),
    )  # fmt: skip
    return task.eval(), exam


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_has_pictures_of_a_few_cases(name: str, images: Images) -> None:
    task, exam = asked(name, images)

    found = gallery.galleries(task, exam, judge_of(exam.run).answers(task, exam))

    assert found
    for one in found:
        assert one.note
        assert 1 <= len(one.rows) <= 6
        for row in one.rows:
            assert len(row.cells) >= 2
            for _, picture in row.cells:
                assert picture.dtype == np.uint8
                assert picture.ndim == 3
                assert picture.shape[2] == 3
                assert max(picture.shape[:2]) >= paint.SIDE


def test_neighbours_are_never_of_the_asked_patient(images: Images) -> None:
    task, exam = asked("retrieval", images)
    answers = judge_of(exam.run).answers(task, exam)
    same = Exam(
        run=exam.run, images=images, learned=exam.asked, asked=exam.asked, device=exam.device
    )

    (found,) = gallery.galleries(task, same, answers)

    pixels = {tuple(row.cells[0][1][5:-5, 5:-5].ravel()) for row in found.rows}
    near = [tuple(cell[1][5:-5, 5:-5].ravel()) for row in found.rows for cell in row.cells[1:]]
    assert len(near) >= 5
    for row in found.rows:
        own = tuple(row.cells[0][1][5:-5, 5:-5].ravel())
        assert own in pixels
        assert own not in [tuple(cell[1][5:-5, 5:-5].ravel()) for cell in row.cells[1:]]


def test_saliency_is_where_the_score_hangs_on_pixels(images: Images) -> None:
    task, _ = asked("classification", images)

    class Corner(torch.nn.Module):
        """Sees only one quarter of an image."""

        def forward(self, images_BCYX: torch.Tensor) -> torch.Tensor:
            seen = images_BCYX[:, :, : SIDE // 2, : SIDE // 2].mean(dim=(1, 2, 3))
            return torch.stack([seen] * task.encoder.width, dim=1) * torch.linspace(
                -1, 1, task.encoder.width
            )

    blind = FineCorner(task, Corner())

    heat = saliency(blind, torch.full((1, 1, SIDE, SIDE), 1.5), 0)[0]

    assert float(heat[: SIDE // 2, : SIDE // 2].sum()) > 0.8 * float(heat.sum()) > 0


class FineCorner(torch.nn.Module):
    """A classifier whose encoder is another."""

    def __init__(self, task: FineTask, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.encoder = task.head, encoder

    def predict(self, images_BCYX: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.encoder(images_BCYX)), dim=1)


def test_cases_are_best_median_and_worst_each_once() -> None:
    found = gallery.chosen(np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2]))

    assert [place for kind, place in found if kind == "best"] == [2, 6]
    assert [place for kind, place in found if kind == "worst"] == [3, 7]
    assert len({place for _, place in found}) == len(found) == 6
    assert gallery.chosen(np.array([np.nan])) == []


def test_an_outline_stands_at_the_mask_s_edge_and_tints_its_inside() -> None:
    mask_YX = np.zeros((192, 192), np.int64)
    mask_YX[50:100, 50:100] = 1

    painted = paint.with_mask(np.zeros((192, 192, 3), np.uint8), mask_YX)

    assert tuple(painted[50, 70]) == paint.HUES[0]
    assert 0 < painted[75, 75, 0] < paint.HUES[0][0]
    assert not painted[20, 20].any()


def test_a_box_is_drawn_where_it_is_on_the_enlarged_picture() -> None:
    painted = paint.with_boxes(
        np.zeros((96, 96, 3), np.uint8), np.array([[10.0, 20.0, 30.0, 40.0]]), [(255, 0, 0)]
    )

    assert painted.shape == (192, 192, 3)
    assert tuple(painted[40, 40]) == (255, 0, 0)
    assert not painted[60, 40].any()


def test_grey_of_16_bits_and_flat_heat_are_pictures_too() -> None:
    deep = paint.grey(np.full((1, 4, 4), 65535, np.uint16))

    assert deep.max() == 255
    assert paint.with_heat(deep, np.zeros((4, 4))).shape == (192, 192, 3)
