"""Robustness on dermatoscopy: worse images, a site never seen, and whether confidence is honest.

All labels, fine-tuned over the sites. *seen sites* asks test patients of the three sites; *unseen*
leaves a site out of pre-training and fine-tuning, and asks all of its patients. Corruptions are the
product's suite for dermatoscopy at severity 3 of 5 (``evaluation.corruptions``), on test images.
The temperature is fitted on validation patients (``evaluation.calibration``). A calibration error,
lower is better, is too large by chance on few images; a site's pre-training is of one seed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from downstream_work import Desk, Way
from label_efficiency import TUNING, pretrained, tuning

from confrere_client.data.images import Images
from confrere_client.evaluation.calibration import (
    at_temperature,
    expected_calibration_error,
    fitted_temperature,
    logs,
)
from confrere_client.evaluation.corruptions import corrupted, suite
from confrere_client.evaluation.paired import Weighed
from confrere_client.finetune.classification import truth
from confrere_client.finetune.judge import Answers, Exam, Rows, collected
from confrere_client.measure.intervals import Floats
from confrere_client.measure.probe import macro_auc
from confrere_common.model import build_model, load_weights
from confrere_common.task import FineTask
from confrere_deploy.study.finetuning import Arm, Studio
from confrere_deploy.study.tuned_report import exam_of

MEASURES = ("auc", "auc of worse images", "worst corruption", "ece", "ece at temperature")
BASES = ("scratch",)
COLUMNS = ("asked", "start")
SEVERITIES = (3,)
SITES = ("rosendahl", "vidir_modern", "vidir_molemax")


def ways(_: Desk) -> Iterator[Way]:
    """Yield seen sites, then each site unseen."""
    for site in ("", *SITES):
        for warm in (False, True):
            knobs = TUNING["warm" if warm else "scratch"]
            start = pretrained("derm", leaves_out=site) if warm else None
            start = replace(start, seed=0) if start is not None and site else start
            asked = f"unseen: {site}" if site else "seen sites"
            plain = tuning("derm", 1.0, **knobs)
            plain["data"] = {**plain["data"], "val_share": 0.15}
            yield Way(
                data="derm", plain=plain, tuned="federated", start=start,
                leaves_out=site,
                facts={"asked": asked, "start": "federated simclr" if warm else "scratch"},
            )  # fmt: skip


def more(studio: Studio, arm: Arm, seed: int) -> Answers:
    """Return probabilities of worse images, and at the temperature that validation asks for."""
    lecture = studio.lecture
    model = build_model(lecture.run, seed)
    load_weights(model, arm.weights)
    assert isinstance(model, FineTask)
    model.eval()
    val = exam_of(lecture, lecture.val)
    temperature = fitted_temperature(logs(_floats(collected(val, model.predict))), truth(val))
    found = {"calibrated": at_temperature(logs(_floats(arm.answers["scores_NK"])), temperature)}
    if len(lecture.sites) < len(SITES):  # an unseen site is hard enough
        return found
    images = lecture.images
    for name in suite("dermatology", channels=images.channels, dims=images.dims):
        for severity in SEVERITIES:
            worse = _worse(images, arm.asked, name, severity)
            exam = replace(exam_of(lecture, arm.asked), images=worse)
            found[f"{name} {severity}"] = collected(exam, model.predict).astype(np.float16)
    return found


def figures(answers: Answers, exam: Exam) -> Mapping[str, Weighed]:
    """Return what the table shows."""
    labels = truth(exam)
    scores = {name: _floats(values) for name, values in answers.items()}
    found: dict[str, Weighed] = {
        "auc": partial(macro_auc, scores["scores_NK"], labels),
        "ece": partial(expected_calibration_error, scores["scores_NK"], labels),
    }
    if "calibrated" in scores:
        found["ece at temperature"] = partial(
            expected_calibration_error, scores["calibrated"], labels
        )
    worse = {name: partial(macro_auc, scores[name], labels) for name in scores if " " in name}
    if worse:
        kinds = {name.split(" ")[0] for name in worse}
        each = [
            _mean([of for name, of in worse.items() if name.startswith(kind)]) for kind in kinds
        ]
        found["auc of worse images"] = _mean(each)
        found["worst corruption"] = _least(each)
    return found


def _worse(images: Images, rows: Rows, name: str, severity: int) -> Images:
    """Return the images, those of *rows* corrupted."""
    pixels = np.zeros(images.pixels.shape, images.pixels.dtype)
    for part in np.array_split(rows, max(1, len(rows) // 128)):
        pixels[part] = corrupted(images.batch(part), name, severity, part).numpy()
    return replace(images, pixels=pixels)


def _mean(values: list[Weighed]) -> Weighed:
    return lambda weights_DN: np.mean([value(weights_DN) for value in values], axis=0)


def _least(values: list[Weighed]) -> Weighed:
    return lambda weights_DN: np.min([value(weights_DN) for value in values], axis=0)


def _floats(values: Any) -> Floats:
    found = np.asarray(values, np.float64)
    return found / found.sum(axis=1, keepdims=True)
