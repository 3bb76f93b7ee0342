"""Sites search their own images for what is like another, and for what is odd beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from tuned import short, tune

from confrere_client.data.images import open_images
from confrere_client.finetune.judge import Exam, judge_of
from confrere_common.errors import ConfigError
from confrere_common.loading import parse_run
from confrere_common.model import build_model, load_weights
from confrere_common.task import FineTask
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.study.finetuning import prepared


def test_an_index_is_searched_and_what_is_odd_is_found(tiny: Path, tmp_path: Path) -> None:
    index = tune(tiny, tmp_path / "index", alone=True, task="retrieval", run=short(1))
    odd = tune(
        tiny, tmp_path / "odd", task={"name": "anomaly", "normal": "0", "score": "knn"},
        run=short(1),
    )  # fmt: skip

    assert 0 <= index["arms"]["tuned"]["figures"]["P@5"]["mean"] <= 1
    figures = odd["arms"]["federated"]["figures"]
    assert figures["auroc"] == figures["auroc by knn"]
    high, low = (figures[f"auroc by {name}"]["mean"] for name in ("contrast", "low contrast"))
    assert high + low == pytest.approx(1)
    assert odd["data"]["images"] < index["data"]["images"]


def paint_noise(folder: Path) -> None:
    """Put many images there that are hard to tell apart: whose are searched makes a difference."""
    rows = np.arange(300)
    np.savez(
        folder / "images.npz",
        train_images=np.random.default_rng(0).integers(0, 256, (300, 16, 16), np.uint8),
        train_labels=rows[:, None] % 3,
        train_sites=np.array([f"site-{row % 2}" for row in rows]),
    )


def own_answers(
    run_file: Path, out: Path, report: dict[str, Any], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network left in *out* answers for each site's test images beside that site's
    own, and the class of each image.
    """
    run = parse_run(report["run"], ALL_FAMILIES)
    images = open_images(run.data.source, folder=run_file.parent, image_px=16, channels=1,
                         cache_dir=out)  # fmt: skip
    lecture = prepared(run, images, run_file.parent, alone=False)
    model = build_model(lecture.run, 0)
    assert isinstance(model, FineTask)
    load_weights(model, load_file(out / "task.safetensors"))
    found = []
    for site, learned in lecture.sites.items():
        rows = lecture.test[lecture.test_sites == site]
        exam = Exam(
            run=lecture.run, images=images, learned=learned, asked=rows,
            device=torch.device("cpu"), counted=True,
        )  # fmt: skip
        answers = judge_of(lecture.run).answers(model.eval(), exam)
        found.append((np.asarray(answers[name]), images.catalog.labels[rows]))
    values, labels = zip(*found, strict=True)
    return np.concatenate(values), np.concatenate(labels)


def test_simulated_sites_count_searches_of_their_own_images(tiny: Path, tmp_path: Path) -> None:
    paint_noise(tiny.parent)
    report = tune(
        tiny, tmp_path / "out", task={"name": "retrieval", "out": 8}, evaluation={"min_cell": 2},
        run=short(1, floors="none"),
    )  # fmt: skip

    told, (values, labels) = (
        report["evaluation"], own_answers(tiny, tmp_path / "out", report, "P@5"),
    )  # fmt: skip
    assert [one["name"] for one in told["queries"]] == ["0", "1", "2"]
    assert sum(one["images"] for one in told["queries"]) == report["data"]["test_images"]
    for kind, one in enumerate(told["queries"]):
        assert one["low"] <= values[labels == kind].mean() <= one["high"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Class searched for" in page
    assert "Dice" not in page.partition("The full configuration")[0]


def test_simulated_sites_count_how_normal_images_look_beside_their_own(
    tiny: Path, tmp_path: Path
) -> None:
    paint_noise(tiny.parent)
    report = tune(
        tiny, tmp_path / "out", task={"name": "anomaly", "normal": "1", "score": "knn"},
        evaluation={"min_cell": 2}, run=short(1, floors="none"),
    )  # fmt: skip

    told, (values, labels) = (
        report["evaluation"], own_answers(tiny, tmp_path / "out", report, "normality_N"),
    )  # fmt: skip
    (one,) = told["classes"]
    assert one["name"] == "1"
    assert one["positives"] + one["negatives"] == report["data"]["test_images"]
    assert abs(told["auc"] - roc_auc_score(labels == 1, values)) <= told["error"]
    assert "calibration_error" not in one
    assert "Calibration error" not in (tmp_path / "out/report.html").read_text()


def test_a_normal_class_that_is_not_there_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown class 'none'"):
        tune(tiny, tmp_path / "out", task={"name": "anomaly", "normal": "none"})
