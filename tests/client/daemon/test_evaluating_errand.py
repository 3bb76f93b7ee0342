"""A model is scored in a hospital's worker: counts of enough patients lie leave, or none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scored import asking, counts, errand, kept, lent, paint, site_with_scans, told

from confrere_client.daemon.lessons import NOTE, shelf
from confrere_client.daemon.outbox import Outbox
from confrere_client.finetune.judge import Exam, judge_of
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_common.config import Run
from confrere_common.judged import read_evaluation
from confrere_common.model import build_model
from confrere_common.task import FineTask
from confrere_server.grading import graded

CLASSES = 2


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return site_with_scans(tmp_path)


def test_counts_lie_in_the_outbox_and_nothing_else(site: SiteFolder) -> None:
    asked = errand(site, asking())

    said = told(site, asked)

    update = kept(site, asked)
    assert said == {"errand": asked.key, "done": True}
    assert (update.delta, update.metrics, update.round) == ({}, {}, 2)
    assert min(counts(update)) >= 10
    assert sum(counts(update)) == 30  # a quarter of each class


def outlined(folder: Path, count: int = 80, lack: int = 0) -> Path:
    """Return a table of pictures, one a patient: a bright square is its mask; *lack* have none."""
    generator = np.random.default_rng(1)
    rows = ["path,patient,mask"]
    for number in range(count):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = number >= lack
        image = (generator.integers(0, 90, (16, 16)) + 150 * mask).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", mask)
        rows.append(f"{number}.png,p{number},{number}.npy")
    path = folder / "table.csv"
    path.write_text("\n".join(rows))
    return path


def test_of_a_segmentation_the_dice_of_enough_patients_is_told(site: SiteFolder) -> None:
    (site.folder / "drawn").mkdir()
    add(site.folder, "ward", outlined(site.folder / "drawn", 120, lack=60), replace=True)
    run = asking(task={"name": "segmentation", "width": 4}, classes=["lesion"])

    asked = errand(site, run)
    told(site, asked)

    plain = read_evaluation(kept(site, asked).description, 1, 10)
    (one,) = plain["tallies"]
    images = {side: sum(n for *_, n in one[side]) for side in ("positives", "negatives")}
    assert sum(images.values()) == 30  # a quarter of all who have a mask, empty or not
    assert min(n for side in images for *_, n in one[side]) >= 10


def test_of_a_detection_the_surest_box_of_enough_patients_is_told(site: SiteFolder) -> None:
    (site.folder / "drawn").mkdir()
    table = outlined(site.folder / "drawn", 120)
    rows = [row.split(",")[:2] for row in table.read_text().splitlines()[1:]]
    boxes = ['"[]"', '"[[""cell"", 4, 4, 12, 12]]"']
    lines = [f"{path},{patient},{boxes[n % 2]}" for n, (path, patient) in enumerate(rows)]
    table.write_text("\n".join(["path,patient,boxes", *lines]))
    add(site.folder, "ward", table, replace=True)
    run = asking(task={"name": "detection", "width": 4}, classes=["cell"])

    asked = errand(site, run)
    told(site, asked)

    (one,) = read_evaluation(kept(site, asked).description, 1, 10)["tallies"]
    cells = [*one["positives"], *one["negatives"]]
    assert sum(n for *_, n in cells) == 30  # a quarter of all who have a list, empty or not
    assert min(n for *_, n in cells) >= 10


NORMAL: dict[str, Any] = {"name": "anomaly", "normal": "a", "bottleneck": 8}


@pytest.mark.parametrize("score", ["foretold", "unusual", "knn", "mahalanobis"])
def test_of_anomalies_it_is_told_how_normal_enough_patients_look(
    site: SiteFolder, score: str
) -> None:
    asked = errand(site, asking(task={**NORMAL, "score": score}))

    told(site, asked)

    (one,) = read_evaluation(kept(site, asked).description, CLASSES, 10)["tallies"]
    assert one["kind"] == 0
    assert [sum(n for *_, n in one[side]) for side in ("positives", "negatives")] == [15, 15]


def test_of_searches_each_class_of_enough_patients_is_told(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, min_cell: 2}")
    run = asking(task={"name": "retrieval", "out": 8}, evaluation={"min_cell": 2})
    asked = errand(site, run)

    told(site, asked)

    tallies = read_evaluation(kept(site, asked).description, CLASSES, 2)["tallies"]
    assert [one["kind"] for one in tallies] == [0, 1]
    assert [sum(n for *_, n in one["positives"]) for one in tallies] == [15, 15]
    exact = searched(site, run)
    for one in tallies:
        found = graded([tuple(cell) for cell in one["positives"]])
        assert found is not None
        assert found.low <= exact[one["kind"]] <= found.high


def test_who_is_held_out_is_not_searched_either(site: SiteFolder) -> None:
    """Their images look like the other class's that were learned from, and like each other."""
    run = asking(task={"name": "retrieval", "out": 8})
    held, looks = lent(site, run).held, np.arange(120) % 2
    (site.runs / "run-1" / NOTE).unlink()
    looks[held] = 1 - looks[held]
    pixels = np.random.default_rng(0).integers(0, 30, (120, 16, 16))
    pixels[looks == 0, :8] += 200
    pixels[looks == 1, :, :8] += 200
    paint(site.folder / "scans.npz", train_images=pixels.astype(np.uint8))
    shelf.cache_clear()
    asked = errand(site, run)

    told(site, asked)

    for one in read_evaluation(kept(site, asked).description, CLASSES, 10)["tallies"]:
        found = graded([tuple(cell) for cell in one["positives"]])
        assert found is not None
        assert found.high < 0.1


def searched(site: SiteFolder, run: Run) -> list[float]:
    """Return the mean P@5 of each class of who is held out, among all others."""
    shown, model = lent(site, run), build_model(run, seed=0)
    assert isinstance(model, FineTask)
    free = np.setdiff1d(np.arange(len(shown.images)), shown.held)
    exam = Exam(
        run=run, images=shown.images, learned=free, asked=shown.held, device=torch.device("cpu")
    )
    values = judge_of(run).answers(model.eval(), exam)["P@5"]
    labels = shown.images.catalog.labels[shown.held]
    return [float(values[labels == kind].mean()) for kind in range(CLASSES)]


@pytest.mark.parametrize("task", [NORMAL, {"name": "retrieval", "out": 8}])
def test_a_part_test_lies_beside_what_was_learned_from(
    site: SiteFolder, task: dict[str, Any]
) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    more = {"test_images": pixels, "test_labels": np.array(["b", "a"] * 12)}
    paint(site.folder / "scans.npz", **more)
    asked = errand(site, asking(task=task))

    said = told(site, asked)

    assert said == {"errand": asked.key, "done": True}
    assert sum(counts(kept(site, asked))) == 24  # though patients of both are numbered from 0


def test_a_source_with_a_patient_in_both_of_its_parts_is_not_scored(site: SiteFolder) -> None:
    more = {
        "test_images": np.zeros((24, 16, 16), np.uint8),
        "test_labels": np.array(["a", "b"] * 12),
        "test_patients": np.array([f"p{n}" for n in range(24)]),
        "train_patients": np.array([f"p{n + 23}" for n in range(120)]),
    }
    paint(site.folder / "scans.npz", **more)

    said = told(site, errand(site, asking(task={"name": "retrieval", "out": 8})))

    assert "done" not in said


def test_a_site_without_a_normal_image_has_nothing_to_compare_with(site: SiteFolder) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    np.savez(
        site.folder / "scans.npz", train_images=pixels, train_labels=np.array(["b"] * 24),
        test_images=pixels, test_labels=np.array(["a", "b"] * 12),
    )  # fmt: skip

    said = told(site, errand(site, asking(task=NORMAL)))

    assert said["refused"] == "nothing-to-score"


@pytest.mark.parametrize(
    ("smallest", "task", "held"),
    [
        (15, NORMAL, 30),
        (16, NORMAL, 0),
        (15, {"name": "retrieval"}, 30),
        (16, {"name": "retrieval"}, 0),
    ],
)
def test_nobody_is_held_out_of_anomalies_or_searches_who_could_not_be_told_of(
    site: SiteFolder, smallest: int, task: dict[str, Any], held: int
) -> None:
    run = asking(task=task, evaluation={"min_cell": smallest})

    assert len(lent(site, run).held) == held


def test_the_hospital_s_own_limit_holds_whatever_the_run_says(site: SiteFolder) -> None:
    site.policy.write_text("{min_images: 4, min_cell: 14}")
    asked = errand(site, asking(evaluation={"min_cell": 2}))

    told(site, asked)

    assert min(counts(kept(site, asked))) >= 14


@pytest.mark.parametrize("line", ["evaluation: false", "require_secure_aggregation: true"])
def test_a_policy_that_lets_no_counts_leave_is_kept_by_the_worker_too(
    site: SiteFolder, line: str
) -> None:
    site.policy.write_text(f"min_images: 4\n{line}\n")
    asked = errand(site, asking())

    said = told(site, asked)

    assert said["refused"] == "policy-evaluation"
    assert Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key) is None


@pytest.mark.parametrize("run", [asking(), asking(evaluation=None)])
def test_a_model_is_scored_only_when_the_run_said_so(site: SiteFolder, run: Run) -> None:
    assert told(site, errand(site, run, round=1))["refused"] == "not-approved"


def test_of_one_model_the_site_says_one_thing_though_a_patient_came(site: SiteFolder) -> None:
    asked = errand(site, asking())
    told(site, asked)
    first = kept(site, asked).description

    paint(site.folder / "scans.npz", count=128)
    (site.folder / "cache").rename(site.folder / "older")
    shelf.cache_clear()
    told(site, errand(site, asking()))

    assert kept(site, asked).description == first


def test_counts_that_were_made_under_a_laxer_policy_stay(site: SiteFolder) -> None:
    asked = errand(site, asking(evaluation={"min_cell": 2}))
    told(site, asked)
    Outbox(folder=site.outbox, key=site.outbox_key()).drop_all_but("")
    site.policy.write_text("{min_images: 4, min_cell: 14}")

    said = told(site, errand(site, asking(evaluation={"min_cell": 2})))

    assert said["refused"] == "policy-evaluation"
    assert Outbox(folder=site.outbox, key=site.outbox_key()).get(asked.key) is None


def test_nobody_who_is_scored_was_learned_from(site: SiteFolder) -> None:
    found = lent(site, asking())

    assert set(found.asked) == set(found.held)
    assert len(found.held) == 30


@pytest.mark.parametrize("line", ["min_cell: 16", "evaluation: false"])
def test_a_site_that_could_tell_nothing_learns_from_all(site: SiteFolder, line: str) -> None:
    site.policy.write_text(f"min_images: 4\n{line}\n")  # of 60 of a class, 15 would be held out

    found = lent(site, asking())

    assert len(found.held) == len(found.asked) == 0


@pytest.mark.parametrize(
    ("count", "lack", "held"), [(36, 0, 0), (40, 0, 10), (56, 28, 0), (120, 60, 30)]
)
def test_masks_are_held_out_only_where_both_sides_of_a_structure_may_be_told(
    site: SiteFolder, count: int, lack: int, held: int
) -> None:
    """Of a quarter: 9 are too few; 10 all have the lesion; of 14 a few have it, or lack it."""
    (site.folder / "drawn").mkdir()
    add(site.folder, "ward", outlined(site.folder / "drawn", count, lack), replace=True)
    run = asking(
        task={"name": "segmentation", "width": 4}, classes=["lesion"], evaluation={"min_cell": 10}
    )

    assert len(lent(site, run).held) == held


def test_who_was_learned_from_is_not_scored_when_the_policy_grows_laxer(site: SiteFolder) -> None:
    """Guarantee: "nobody is scored who was not held out when the note was made"."""
    site.policy.write_text("{min_images: 4, min_cell: 16}")
    run = asking(evaluation={"min_cell": 2})
    assert len(lent(site, run).held) == 0

    site.policy.write_text("{min_images: 4, min_cell: 2}")
    assert len(lent(site, run).held) == 0

    (site.runs / "run-1" / NOTE).unlink()  # as if the run began now
    assert len(lent(site, run).held) == 30


def test_images_that_the_source_marks_as_test_are_scored_and_all_others_learned_from(
    site: SiteFolder,
) -> None:
    pixels = np.zeros((24, 16, 16), np.uint8)
    more = {"test_images": pixels, "test_labels": np.array(["a", "b"] * 12)}
    paint(site.folder / "split.npz", **more)
    (site.folder / "data.yaml").unlink()
    add(site.folder, "ward", site.folder / "split.npz", one_image_per_patient=True)

    found = lent(site, asking())

    assert len(found.held) == 0
    assert (len(found.images), len(found.asked)) == (120, 24)


def test_images_of_patients_who_are_not_known_are_not_counted(site: SiteFolder) -> None:
    text = (site.folder / "data.yaml").read_text()
    plain = yaml.safe_load(text)
    plain["ward"] |= {"one_image_per_patient": False}
    (site.folder / "data.yaml").write_text(yaml.safe_dump(plain))

    assert told(site, errand(site, asking()))["refused"] == "nothing-to-score"


def test_a_head_that_stays_at_its_site_is_the_one_that_is_scored(site: SiteFolder) -> None:
    run = asking(head="local")
    before = told(site, errand(site, run))
    for round in (1, 2):
        told(site, errand(site, run, round, evaluate=False))

    asked = errand(site, run)
    after = told(site, asked)

    assert before["refused"] == "nothing-to-score"
    assert after == {"errand": asked.key, "done": True}


def test_a_site_without_labels_says_so_and_trains_nothing(site: SiteFolder) -> None:
    pixels = np.zeros((24, 16, 16), np.uint8)
    np.savez(site.folder / "scans.npz", train_images=pixels)

    said = told(site, errand(site, asking(), 1, evaluate=False))

    assert said["refused"] == "no-labels"


def test_a_site_whose_labels_are_others_says_so(site: SiteFolder) -> None:
    said = told(site, errand(site, asking(classes=["a", "c"]), 1, evaluate=False))

    assert said["refused"] == "other-classes"


def test_scoring_leaves_no_trace_in_what_is_trained_next(site: SiteFolder) -> None:
    run = asking(evaluation={"every": 1})
    plain = errand(site, run, 2, evaluate=False)
    told(site, plain)
    alone = kept(site, plain).delta
    Outbox(folder=site.outbox, key=site.outbox_key()).drop_all_but("")
    for state in (site.runs / "run-1").glob("state*"):
        state.unlink()

    told(site, errand(site, run, 1))
    told(site, errand(site, run, 2, evaluate=False))

    again = kept(site, plain).delta
    assert all(torch.equal(again[name], alone[name]) for name in alone)
