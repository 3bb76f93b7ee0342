"""A doctor reads that labels are used, what leaves of encoder and head, and what of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import tuning

from confrere_client.hospital.plan import Plan
from confrere_client.hospital.plan_text import summary
from confrere_client.hospital.policy import Policy, judge
from confrere_client.hospital.registry import Registered
from confrere_common.config import Run
from confrere_common.family import Named
from confrere_common.loading import dump
from confrere_common.proposal import Proposal

NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001  (local time)
DATA = {
    "derm": Registered(
        name="derm", source=Named(name="npz", knobs={"path": "x"}), images=60, patients=40
    )
}


def asking(**finetune: object) -> Run:
    return on_site(tuning(**finetune))


def on_site(run: Run) -> Run:
    source = Named(name="site", knobs={"dataset": "derm"})
    return replace(run, data=replace(run.data, source=source))


def plan_of(run: Run) -> Plan:
    proposal = Proposal(
        run_id="r1", study="eyes", run=dump(run), code="ab" * 32, sites=3,
        bytes_down=9, bytes_up=9, seed=0,
    )  # fmt: skip
    return Plan(proposal=proposal, received="2026-03-01T12:00:00+00:00")


def rows_of(run: Run, policy: Policy | None = None) -> dict[str, str]:
    return dict(summary(plan_of(run), policy or Policy(), DATA, now=NOON))


def test_labels_classes_head_and_scores_are_named() -> None:
    rows = rows_of(asking(start_digest="7" * 64, labels=0.1, evaluation={"every": 3}))

    assert rows["stage"].startswith("finetune: your labels are used")
    assert rows["labels used"].startswith("0.1 (a share of each class); classes: a, b, c.")
    assert rows["starts from"] == "an encoder with the SHA-256 7777777777777777..."
    assert rows["head"] == "leaves too."
    assert "weights of encoder and head" in rows["leaves, each round"]
    assert "after every 3 rounds and the last" in rows["leaves, of scores"]
    assert "cells of 10 patients" in rows["leaves, of scores"]
    assert "25% of each class's patients, who are not trained on" in rows["held out"]
    assert "fewer than 10 when the run begins" in rows["held out"]
    assert "the data set changes after that, nobody is scored" in rows["held out"]
    assert "each one's label" in rows["stays"]


def test_of_a_segmentation_masks_are_named_and_what_is_withheld() -> None:
    rows = rows_of(on_site(tuning("segmentation", classes=["lesion"])))

    assert "25% of the patients who have masks" in rows["held out"]
    assert "nothing of a structure that fewer have, or lack" in rows["leaves, of scores"]


def test_of_a_detection_the_surest_box_is_named_and_what_is_withheld() -> None:
    rows = rows_of(on_site(tuning("detection", classes=["cell"])))

    assert "25% of the patients who have boxes" in rows["held out"]
    assert "have a surest box in which range" in rows["leaves, of scores"]
    assert "nothing of a class that fewer have, or lack" in rows["leaves, of scores"]


def test_of_anomalies_and_searches_it_is_named_what_images_are_compared_with() -> None:
    odd = rows_of(on_site(tuning("anomaly", knobs={"normal": "a"})))
    search = rows_of(on_site(tuning("retrieval")))

    assert "look how normal beside yours that were learned from" in odd["leaves, of scores"]
    assert "nothing where fewer are normal, or are not" in odd["leaves, of scores"]
    assert "P@5), among yours that were learned from" in search["leaves, of scores"]
    assert "nothing of" not in search["leaves, of scores"]
    assert "25% of each class's patients" in search["held out"]


def test_of_findings_it_is_named_what_is_withheld() -> None:
    several, single = (asking(knobs={"kind": kind}) for kind in ("multilabel", "multiclass"))

    assert "nothing of a finding that fewer have" in rows_of(several)["leaves, of scores"]
    assert "nothing of" not in rows_of(single)["leaves, of scores"]


def test_a_head_that_stays_is_said_to_stay() -> None:
    rows = rows_of(asking(head="local"))

    assert rows["head"].startswith("stays here")
    assert "weights of the encoder (" in rows["leaves, each round"]


@pytest.mark.parametrize(
    ("policy", "run", "said"),
    [
        (Policy(min_cell=25), asking(), "cells of 25 patients"),
        (Policy(evaluation=False), asking(), "nothing: your policy"),
        (Policy(require_secure_aggregation=True), asking(), "nothing: your policy"),
        (Policy(), asking(evaluation=None), "nothing: the run asks for no evaluation"),
    ],
)
def test_the_policy_s_word_on_scores_is_the_last(policy: Policy, run: Run, said: str) -> None:
    assert said in rows_of(run, policy)["leaves, of scores"]


def test_a_policy_without_the_stage_refuses_it() -> None:
    run = asking()
    plan = plan_of(run)

    verdict = judge(
        Policy(stages=("pretrain",)), plan.proposal, run, data_sets=DATA, now=NOON.astimezone()
    )

    assert (verdict.state, verdict.codes[0]) == ("refused", "policy-stage")
    assert "The stage is 'finetune'; your policy allows pretrain." in verdict.sentences


def registered_with(folder: Path, labels: Sequence[str], **more: Any) -> Mapping[str, Registered]:
    """Return a data set whose images have the given labels."""
    path = folder / "scans.npz"
    pixels = np.zeros((len(labels), 16, 16), np.uint8)
    np.savez(path, train_images=pixels, train_labels=np.array(labels))
    entry = replace(DATA["derm"], source=Named(name="npz", knobs={"path": str(path)}), **more)
    return {"derm": entry}


def test_classes_that_no_label_here_names_are_named_in_the_plan(tmp_path: Path) -> None:
    data = registered_with(tmp_path, ["a", "b", "a"])

    def told(run: Run, of: Mapping[str, Registered] = data) -> str:
        rows = dict(summary(plan_of(on_site(run)), Policy(), of, now=NOON))
        return rows.get("classes you lack", "")

    assert told(tuning()) == "your data set has no image of c: left out of its loss."
    assert "kept in its loss" in told(tuning(missing="keep"))
    assert told(tuning(classes=["a", "b"])) == ""
    several = registered_with(tmp_path, ["a|c", "none"])
    findings = tuning(knobs={"kind": "multilabel"})
    assert told(findings, several) == "your data set has no image of b: left out of its loss."
    assert told(tuning(), registered_with(tmp_path, ["a"] * 3, only_scored=True)) == ""
    assert "worker.log" in told(tuning("segmentation"))
    assert told(tuning(), DATA) == ""  # it cannot be read: that is told when it is trained on


def test_the_mean_that_chooses_a_round_is_named_and_of_whom_it_is() -> None:
    rows = rows_of(asking())

    assert (
        "one area under the ROC curve, to 3 digits, over 10 patients or more"
        in (rows["leaves, of validation"])
    )
    assert "marks 'val'; where it marks none, 15% of those" in rows["leaves, of validation"]
    assert "val_score" not in rows["leaves, each round"]
    assert rows["comes in"].endswith("and as much again to score it")


def test_a_policy_without_the_figure_lets_no_mean_leave() -> None:
    rows = rows_of(asking(), Policy(metrics=("loss",)))

    assert rows["leaves, of validation"] == "nothing: your policy (metrics) has no val_score"


def test_where_no_round_is_chosen_the_plan_has_no_row_for_it() -> None:
    assert "leaves, of validation" not in rows_of(asking(head="local"))
    assert "leaves, of validation" not in rows_of(asking(evaluation=None))
