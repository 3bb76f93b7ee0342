"""By whom a federation chooses its round: one mean of enough patients leaves a site, or nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scored import asking, errand, kept, lent, paint, site_with_scans, told

from confrere_client.daemon.lessons import CHOOSERS, shelf
from confrere_client.daemon.outbox import Outbox, what_leaves
from confrere_client.finetune.judge import Exam, judge_of, score
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.model import build_model
from confrere_common.task import FineTask
from confrere_common.validated import read_validation

VAL = 0.25


def choosing(**finetune: Any) -> Run:
    return asking(val_share=VAL, **finetune)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return site_with_scans(tmp_path)


def test_one_mean_lies_in_the_outbox_and_nothing_else(site: SiteFolder) -> None:
    """Guarantee: "one number of 0 to 1 and two counts leave, and no figure of a single patient"."""
    run = choosing()
    asked = errand(site, run, 1, part="val")

    said = told(site, asked)

    update = kept(site, asked)
    plain = json.loads(update.description)
    assert said == {"errand": asked.key, "done": True}
    assert (update.delta, update.metrics, update.marks) == ({}, {}, b"")
    assert what_leaves(update) == "score leaves"
    assert plain.keys() == {"images", "score", "smallest"}
    assert (plain["images"], plain["smallest"]) == (22, 10)  # a quarter of 45 of each class
    assert plain["score"] == float(f"{exact(site, run):.3g}")


def exact(site: SiteFolder, run: Run) -> float:
    """Return the score of fresh weights on the patients by whom the round is chosen."""
    shown, model = lent(site, run), build_model(run, seed=0)
    assert isinstance(model, FineTask)
    exam = Exam(
        run=run,
        images=shown.val.images,
        learned=np.setdiff1d(np.arange(len(shown.images)), shown.held),
        asked=shown.val.asked,
        device=torch.device("cpu"),
    )
    return score(judge_of(run), judge_of(run).answers(model.eval(), exam), exam)


@pytest.mark.parametrize(
    "finetune",
    [
        {"task": {"name": "anomaly", "normal": "a", "bottleneck": 8}},
        {"task": {"name": "retrieval", "out": 8}},
    ],
)
def test_every_task_has_a_mean_that_leads(site: SiteFolder, finetune: dict[str, Any]) -> None:
    run = choosing(**finetune)
    asked = errand(site, run, 1, part="val")

    told(site, asked)

    score, images = read_validation(kept(site, asked).description, 10)
    assert images == 22
    assert score == float(f"{exact(site, run):.3g}")


@pytest.mark.parametrize("line", ["min_cell: 12", "evaluation: false", "metrics: [loss]"])
def test_a_site_below_its_cell_or_whose_policy_says_no_sends_none_and_trains_on_all(
    site: SiteFolder, line: str
) -> None:
    """Of 45 patients of a class who are left, 11 would be kept apart."""
    site.policy.write_text(f"min_images: 4\n{line}\n")
    run = choosing(evaluation={"min_cell": 2})

    found = lent(site, run)
    asked = errand(site, run, 1, part="val")
    said = told(site, asked)

    due = "nothing-to-score" if line.startswith("min_cell") else "policy-evaluation"
    assert said["refused"] == due
    assert Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key) is None
    assert len(found.val.asked) == 0
    assert len(found.held) == (0 if line == "evaluation: false" else 30)  # those of the test


def test_a_score_that_was_made_under_a_laxer_policy_stays(site: SiteFolder) -> None:
    run = choosing(evaluation={"min_cell": 2})
    asked = errand(site, run, 1, part="val")
    told(site, asked)
    Outbox(folder=site.outbox, key=site.outbox_key()).drop_all_but("")
    site.policy.write_text("{min_images: 4, min_cell: 12}")

    said = told(site, errand(site, run, 1, part="val"))

    assert said["refused"] == "policy-evaluation"
    assert Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key) is None


def test_nobody_chooses_who_was_learned_from_or_is_tested(site: SiteFolder) -> None:
    found = lent(site, choosing())

    assert not set(found.val.asked) & set(found.asked)
    assert set(found.held) == {*found.val.asked, *found.asked}
    assert (len(found.asked), len(found.val.asked)) == (30, 22)


def test_who_was_learned_from_does_not_choose_when_the_policy_grows_laxer(
    site: SiteFolder,
) -> None:
    site.policy.write_text("{min_images: 4, metrics: [loss]}")
    assert len(lent(site, choosing()).val.asked) == 0

    site.policy.write_text("{min_images: 4}")
    assert len(lent(site, choosing()).val.asked) == 0

    (site.runs / "run-1" / CHOOSERS).unlink()  # as if the run began now
    assert len(lent(site, choosing()).val.asked) == 22


def test_once_the_data_set_is_another_nobody_chooses_any_more(site: SiteFolder) -> None:
    assert len(lent(site, choosing()).val.asked) == 22
    paint(site.folder / "scans.npz", count=140)
    (site.folder / "cache").rename(site.folder / "older")

    assert len(lent(site, choosing()).val.asked) == 0


def test_images_that_the_source_marks_as_val_choose_whatever_the_share(site: SiteFolder) -> None:
    pixels = np.random.default_rng(4).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    more = {"val_images": pixels, "val_labels": np.array(["a", "b"] * 12)}
    paint(site.folder / "split.npz", **more)
    (site.folder / "data.yaml").unlink()
    add(site.folder, "ward", site.folder / "split.npz", one_image_per_patient=True)
    shelf.cache_clear()
    asked = errand(site, asking(), 1, part="val")

    told(site, asked)

    found = lent(site, asking())
    assert read_validation(kept(site, asked).description, 10)[1] == 24
    assert (len(found.images), len(found.held)) == (120, 30)


def test_few_labels_are_few_to_validate_with(site: SiteFolder) -> None:
    found = lent(site, choosing(labels=0.5, evaluation={"min_cell": 6}))
    (site.runs / "run-1" / CHOOSERS).unlink()
    fewer = lent(site, choosing(labels=0.5, evaluation={"min_cell": 7}))

    assert (len(found.held), len(found.val.asked)) == (52, 12)
    assert (len(fewer.held), len(fewer.val.asked)) == (30, 0)  # nobody is kept in vain


@pytest.mark.parametrize("changes", [{"head": "local"}, {"evaluation": None}])
def test_where_no_round_is_chosen_nobody_is_kept_for_it(
    site: SiteFolder, changes: dict[str, Any]
) -> None:
    found = lent(site, choosing(**changes))

    assert len(found.val.asked) == 0
    assert told(site, errand(site, choosing(**changes), 1, part="val"))["refused"] == "not-approved"


def test_of_one_model_the_site_says_one_mean_though_a_patient_came(site: SiteFolder) -> None:
    asked = errand(site, choosing(), 1, part="val")
    told(site, asked)
    first = kept(site, asked).description

    paint(site.folder / "scans.npz", count=128)
    (site.folder / "cache").rename(site.folder / "older")
    shelf.cache_clear()
    told(site, errand(site, choosing(), 1, part="val"))

    assert kept(site, asked).description == first
