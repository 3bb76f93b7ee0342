"""What simulated sites tell of a model's scores, by the functions of hospitals and server alone.

Shapes: N images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confrere_client.device import choose_device
from confrere_client.evaluation.federated import told
from confrere_client.finetune.judge import Exam
from confrere_common.codes import sentence_of
from confrere_common.judged import evaluation_of, read_evaluation
from confrere_deploy.report.pooled import Evaluated, evaluated
from confrere_deploy.study.finetuning import Arm, Lecture
from confrere_server.runs.judging import put_together

Rows = NDArray[np.int64]


def counted(lecture: Lecture, arm: Arm) -> Evaluated | None:
    """Return what the sites' counts of an arm's scores come to; None where none are asked for."""
    if evaluation_of(lecture.run) is None or len(lecture.sites) < 2:
        return None
    where = lecture.test_sites[np.searchsorted(lecture.test, arm.asked)]
    said = {site: _said(lecture, arm, site, arm.asked[where == site]) for site in lecture.sites}
    return evaluated([{"round": max(arm.best, 1), **put_together(said, lecture.run)}])


def _said(lecture: Lecture, arm: Arm, site: str, rows: Rows) -> Mapping[str, Any] | str:
    """Return what a site says of its own test images, read as the server reads it.

    Where images are compared with others, that is with the site's own alone.
    """
    asked = evaluation_of(lecture.run)
    if asked is None or not len(rows):
        return sentence_of("nothing-to-score")
    places = np.searchsorted(arm.asked, rows)
    whole = {name: values[places] for name, values in arm.answers.items()}
    exam = Exam(
        run=lecture.run,
        images=lecture.images,
        learned=rows[:0],
        asked=rows,
        device=choose_device(lecture.run.train.device),
    )
    text = told(arm.own.get(site, whole), exam, smallest=asked.min_cell)
    return read_evaluation(text, len(lecture.finetune.classes or ()), asked.min_cell)
