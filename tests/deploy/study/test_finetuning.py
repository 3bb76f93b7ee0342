"""A fine-tuning from run file to report: federated, local, from a start, and after a crash."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from confrere_client.data.images import open_images
from confrere_client.evaluation.detection import FROC
from confrere_client.finetune.judge import Exam, judge_of
from confrere_common.errors import CheckpointError, ConfigError, DataError
from confrere_common.loading import parse_run, read_plain
from confrere_common.model import build_model, load_weights
from confrere_common.release import load_release
from confrere_common.task import FineTask
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.study.finetuning import prepared
from confrere_deploy.study.options import Options
from confrere_deploy.study.tune import carry_out
from confrere_deploy.study.warm import started_from


def tune(
    run_file: Path, out: Path, *, alone: bool = False, resume: bool = False, **section: Any
) -> dict[str, Any]:
    """Carry out a study and return its report as JSON has it."""
    plain = read_plain(run_file)
    plain |= {"stage": "finetune", **section.pop("run", {})}
    plain["finetune"] = section
    plain.pop("method", None)
    if section.get("start"):
        plain = started_from(plain, Path(section["start"])) | {}
        plain["finetune"]["start_digest"] = section.get("start_digest")
    options = Options(folder=run_file.parent, out=out, resume=resume, resources={})
    with (run_file.parent / "said.txt").open("a") as said:
        carry_out(parse_run(plain, ALL_FAMILIES), options, Console(file=said), alone=alone)
    found: dict[str, Any] = json.loads((out / "report.json").read_bytes())
    return found


def short(rounds: int = 2, **more: Any) -> dict[str, Any]:
    return {"federation": {"rounds": rounds}, **more}


def test_sites_fine_tune_together_and_are_judged_on_held_out_patients(
    tiny: Path, tmp_path: Path
) -> None:
    report = tune(tiny, tmp_path / "out", run=short(floors="all"))

    assert set(report["arms"]) == {"federated", "raw", "probe", "local", "centralised"}
    federated = report["arms"]["federated"]["figures"]
    assert federated["auc"]["low"] <= federated["auc"]["mean"] <= federated["auc"]["high"]
    assert {"brier", "ece", "recall of 2"} <= federated.keys()
    assert set(report["differences"]) >= {"federated-raw", "federated-local"}
    for arm in report["arms"].values():
        assert "specificity_at_validation_threshold" in arm["figures"]
    for site, gain in report["joining"]["gains"].items():
        joined, alone = (report["arms"][arm]["sites"][site] for arm in ("federated", "local"))
        assert gain["mean"] == pytest.approx(joined["mean"] - alone["mean"])
    assert [site["site"] for site in report["sites"]] == ["site-0", "site-1"]
    assert report["data"]["classes"] == ["0", "1", "2"]
    page = (tmp_path / "out/report.html").read_text()
    assert "site-1" in page
    assert "balanced_accuracy" in page
    assert "Federated less alone" in page
    assert "lost by joining" in page


def test_simulated_sites_count_as_hospitals_do(tiny: Path, tmp_path: Path) -> None:
    told = tune(tiny, tmp_path / "out", evaluation={"min_cell": 2}, run=short(1, floors="none"))
    few = tune(tiny, tmp_path / "few", evaluation={"min_cell": 20}, run=short(1, floors="none"))
    none = tune(tiny, tmp_path / "none", evaluation=None, run=short(1, floors="none"))

    found = told["evaluation"]
    images = [one["images"] for one in found["sites"]]
    assert [one["site"] for one in found["sites"]] == ["site-0", "site-1"]
    assert sum(images) == told["data"]["test_images"]
    assert abs(found["auc"] - told["arms"]["federated"]["figures"]["auc"]["mean"]) < found["error"]
    assert "auc" not in few["evaluation"]
    assert "evaluation" not in none
    assert "What the hospitals counted" in (tmp_path / "out/report.html").read_text()


def test_a_hospital_alone_stops_early_and_starts_from_a_given_encoder(
    tiny: Path, tmp_path: Path
) -> None:
    tune(tiny, tmp_path / "first", alone=True, run=short(floors="none"))
    start = tmp_path / "first/encoder.safetensors"

    report = tune(
        tiny, tmp_path / "out", alone=True, start=str(start), mode="frozen", patience=1,
        run=short(6, floors="none"),
    )  # fmt: skip

    (course,) = report["courses"]
    assert set(report["arms"]) == {"tuned"}
    assert len(course["losses"]) == max(map(int, course["scores"]))
    given, kept = (
        load_release(p)[0].state_dict() for p in (start, tmp_path / "out/encoder.safetensors")
    )
    assert all(np.allclose(given[name], kept[name], atol=1e-6) for name in given)
    assert len(report["run"]["finetune"]["start_digest"]) == 64
    assert report["run"]["finetune"]["start"] is None


def test_a_start_that_is_not_the_named_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    tune(tiny, tmp_path / "first", alone=True, run=short(1, floors="none"))
    start = str(tmp_path / "first/encoder.safetensors")

    with pytest.raises(CheckpointError, match=r"start_digest is 0000"):
        tune(tiny, tmp_path / "out", alone=True, start=start, start_digest="0" * 64)
    plain = yaml.safe_load(tiny.read_text()) | {"encoder": {"name": "resnet", "width": 16}}
    plain |= {"stage": "finetune", "finetune": {"start": start}}
    options = Options(folder=tmp_path, out=tmp_path / "other", resources={})
    with pytest.raises(ConfigError, match="is another encoder than the run's"):
        carry_out(parse_run(plain, ALL_FAMILIES), options, Console(quiet=True), alone=True)


def test_a_study_goes_on_where_it_was_left(tiny: Path, tmp_path: Path) -> None:
    whole = tune(tiny, tmp_path / "whole", alone=True, run=short(3, floors="none"))
    out = tmp_path / "out"
    tune(tiny, out, alone=True, run=short(3, floors="none"))
    last = out / "federated/seed-0/checkpoints/round-0003"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()

    again = tune(tiny, out, alone=True, resume=True, run=short(3, floors="none"))

    assert again["arms"]["tuned"]["figures"] == whole["arms"]["tuned"]["figures"]


def test_heads_may_stay_at_their_sites(tiny: Path, tmp_path: Path) -> None:
    report = tune(tiny, tmp_path / "out", head="local", run=short(floors="none"))

    assert report["arms"]["federated"]["figures"]["accuracy"]["n"] == 1


def test_private_and_masked_rounds_fine_tune_too(tiny: Path, tmp_path: Path) -> None:
    paint_more(tiny.parent, sites=3)

    private = tune(
        tiny, tmp_path / "private", missing="keep", mode="frozen",
        run=short(1, floors="none", privacy={"epsilon": 20, "delta": 1e-3}),
    )  # fmt: skip
    masked = tune(tiny, tmp_path / "masked", run=short(1, floors="none", secure_aggregation={}))

    assert private["courses"][0]["scores"] == {}
    figures = private["arms"]["federated"]["figures"]
    assert "sensitivity_at_validation_threshold" not in figures
    assert masked["arms"]["federated"]["figures"]


def paint_more(folder: Path, sites: int) -> None:
    with np.load(folder / "images.npz") as kept:
        arrays = dict(kept)
    arrays["train_sites"] = np.array([f"site-{row % sites}" for row in range(60)])
    np.savez(folder / "images.npz", **arrays)


def test_sites_without_a_class_or_any_label_are_named(tiny: Path, tmp_path: Path) -> None:
    with np.load(tiny.parent / "images.npz") as kept:
        arrays = dict(kept)
    labels, sites = arrays["train_labels"][:, 0], arrays["train_sites"]
    sites = np.where(np.arange(60) < 6, "site-9", sites)
    labels = np.where(
        sites == "site-9", -1, np.where((sites == "site-1") & (labels == 2), 0, labels)
    )
    np.savez(tiny.parent / "images.npz", **{**arrays, "train_labels": labels, "train_sites": sites})

    report = tune(tiny, tmp_path / "out", run=short(1, floors="none"))

    said = " ".join(report["warnings"])
    assert "Site 'site-9' has no marked image and takes no part." in said
    assert "Site 'site-1' has no image of 2: left out of its loss." in said


def test_a_class_of_one_patient_is_named_and_stops_nothing(tiny: Path, tmp_path: Path) -> None:
    with np.load(tiny.parent / "images.npz") as kept:
        arrays = dict(kept)
    labels = np.where(np.arange(60) == 7, 3, arrays["train_labels"][:, 0])
    np.savez(tiny.parent / "images.npz", **{**arrays, "train_labels": labels})

    report = tune(tiny, tmp_path / "out", alone=True, run=short(1, floors="none"))

    assert any("Class '3' has fewer than 3 patients" in said for said in report["warnings"])


def test_without_marks_there_is_nothing_to_learn(tiny: Path, tmp_path: Path) -> None:
    with np.load(tiny.parent / "images.npz") as kept:
        arrays = {name: kept[name] for name in ("train_images", "train_sites")}
    np.savez(tiny.parent / "images.npz", **arrays)

    with pytest.raises(DataError, match="no image is marked for the task 'classification'"):
        tune(tiny, tmp_path / "out", classes=["a", "b"])


def test_a_run_that_pre_trains_is_no_fine_tuning(tiny: Path, tmp_path: Path) -> None:
    options = Options(folder=tiny.parent, out=tmp_path / "out", resources={})

    with pytest.raises(ConfigError, match="stage is pretrain"):
        carry_out(
            parse_run(read_plain(tiny), ALL_FAMILIES), options, Console(quiet=True), alone=True
        )


def lesions(tmp_path: Path, **more: Any) -> Path:
    """Return the file of a run on phantom lesions, whose masks are known."""
    plain = yaml.safe_load((tmp_path / "run.yaml").read_text())
    knobs = {"modality": "lesion", "images": 48, "patients": 24, "sites": 2, "image_px": 16}
    plain["data"] = {"source": {"name": "phantom", **knobs}, "image_px": 16}
    plain["augment"] = {"modality": "dermatology", "changes": {"area": [0.8, 1]}}
    plain |= more
    path = tmp_path / "lesions.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_lesions_are_outlined_over_sites(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 12, "lr": 0.01})

    report = tune(
        run_file, tmp_path / "out", task={"name": "segmentation", "width": 4},
        evaluation={"min_cell": 2}, run=short(3, floors="none"),
    )  # fmt: skip

    figures = report["arms"]["federated"]["figures"]
    assert figures["dice"]["mean"] > 0.4
    assert {"iou", "hd95 over diagonal"} <= figures.keys()
    lesion = report["arms"]["federated"]["structures"]["1"]
    assert lesion["cases"] == report["data"]["test_images"]
    assert lesion["dice"]["lower"] <= lesion["dice"]["median"] <= lesion["dice"]["upper"]
    assert len(lesion["missed"]) == len(lesion["invented"]) == 1
    assert "Invented" in (tmp_path / "out/report.html").read_text()
    assert report["data"]["classes"] == ["1"]
    counted = report["evaluation"]
    (structure,) = counted["structures"]
    exact = figures["dice where there is something"]["mean"]
    assert abs(structure["dice"] - exact) <= structure["error"]
    assert structure["images"] + structure.get("without", 0) <= report["data"]["test_images"]
    assert "Dice where it is" in (tmp_path / "out/report.html").read_text()


def test_what_outlined_lesions_starts_another_that_does(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 12, "lr": 0.01})
    segmentation = {"name": "segmentation", "width": 4}
    tune(run_file, tmp_path / "first", task=segmentation, run=short(3, floors="none"))
    start = str(tmp_path / "first/encoder.safetensors")

    quick = short(1, floors="none", train={"steps_per_round": 1, "lr": 1e-5, "warmup": 0})
    told = {
        whole: tune(
            run_file, tmp_path / f"{whole}", task=segmentation, start=start, start_decoder=whole,
            run=quick,
        )
        for whole in (True, False)
    }  # fmt: skip

    dice = {key: one["arms"]["federated"]["figures"]["dice"]["mean"] for key, one in told.items()}
    assert dice[True] > dice[False]
    assert "and its decoder" in (run_file.parent / "said.txt").read_text()


def test_floors_are_had_without_validation_patients(tiny: Path, tmp_path: Path) -> None:
    source = {"name": "phantom", "modality": "lesion", "images": 48, "patients": 24, "sites": 2}
    data = {"source": {**source, "image_px": 16}, "image_px": 16, "val_share": 0.0}
    run_file = lesions(tiny.parent, data=data)

    report = tune(run_file, tmp_path / "out", run=short(1, floors="cheap"))

    assert {"raw", "probe"} <= set(report["arms"])
    assert any("no validation patients" in said for said in report["warnings"])
    for arm in report["arms"].values():
        assert "specificity_at_validation_threshold" not in arm["figures"]


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


def test_lesions_are_boxed_over_sites(tiny: Path, tmp_path: Path) -> None:
    run_file = lesions(tiny.parent, train={"batch": 16, "steps_per_round": 20, "lr": 0.01})

    report = tune(
        run_file, tmp_path / "out", alone=True, task={"name": "detection", "width": 16},
        run=short(3, floors="none"),
    )  # fmt: skip

    figures = report["arms"]["tuned"]["figures"]
    assert figures["AP at 0.5"]["mean"] > 0.05
    found = [figures[name]["mean"] for name in FROC]
    assert len(found) == 7
    assert found == sorted(found)
    assert figures["FROC mean"]["mean"] == pytest.approx(np.mean(found))
    assert "FROC at 1/8" in (tmp_path / "out/report.html").read_text()
    assert report["data"]["classes"] == ["lesion"]


def test_a_detector_learns_from_boxes_of_a_prepared_data_set(tiny: Path, tmp_path: Path) -> None:
    from confrere_client.ingest.prepare import Order, prepare

    rng, cells = np.random.default_rng(0), ["path,patient,boxes"]
    (tmp_path / "in").mkdir()
    for number in range(24):
        image = rng.integers(0, 60, (48, 64), np.uint8)
        x, y = rng.integers(2, 36, 2).tolist()
        y = min(y, 26)
        image[y : y + 20, x : x + 20] += 180
        Image.fromarray(image).save(tmp_path / f"in/{number}.png")
        cells.append(f'in/{number}.png,p{number},"[[""cell"", {x}, {y}, {x + 20}, {y + 20}]]"')
    (tmp_path / "t.csv").write_text("\n".join(cells))
    prepare(Order(sources=(tmp_path / "in",), dataset=tmp_path / "set", table=tmp_path / "t.csv"))
    source = {"name": "prepared", "path": str(tmp_path / "set")}

    report = tune(
        tiny, tmp_path / "out", alone=True, task={"name": "detection", "width": 16},
        run=short(
            3, floors="none", data={"source": source, "image_px": 16, "channels": 1},
            train={"batch": 16, "steps_per_round": 20, "lr": 0.01},
            augment={"modality": "dermatology", "changes": {"area": [0.8, 1]}},
        ),
    )  # fmt: skip

    assert report["data"]["classes"] == ["cell"]
    assert report["data"]["preparation"]["image_px"] == 256
    card = json.loads((tmp_path / "out/encoder.json").read_text())
    assert card["preprocessing"]["prepared"]["scaling"] == ["not said: as stored"]
    assert report["arms"]["tuned"]["figures"]["AP at 0.5"]["mean"] > 0.5


def test_masks_without_classes_have_validation_patients_too(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number in range(12):
        image = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", (image > 99).astype(np.uint8))
    rows = [f"{number}.png,p{number},{number}.npy" for number in range(12)]
    (folder / "table.csv").write_text("\n".join(["path,patient,mask", *rows]))
    source = {"name": "catalog", "path": str(folder / "table.csv")}

    report = tune(
        tiny, tmp_path / "out", alone=True, task={"name": "segmentation", "width": 4},
        run=short(1, floors="none", data={"source": source, "image_px": 16, "channels": 1}),
    )  # fmt: skip

    assert set(report["courses"][0]["scores"]) == {"1"}
    assert not any("no validation patients" in said for said in report["warnings"])


def test_pictures_lie_beside_a_report_that_holds_none(tiny: Path, tmp_path: Path) -> None:
    report = tune(tiny, tmp_path / "out", alone=True, run=short(1, floors="none"))

    assert report["pictures"]
    assert "data:image" not in (tmp_path / "out/report.html").read_text()
    assert "do not pass it on" in (tmp_path / "out/pictures.html").read_text()
