"""A fine-tuning from run file to report: federated, local, from a start, and after a crash."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from tuned import lesions, short, tune

from confrere_common.errors import CheckpointError, ConfigError, DataError
from confrere_common.loading import parse_run, read_plain
from confrere_common.release import load_release
from confrere_deploy.families import ALL_FAMILIES
from confrere_deploy.study.options import Options
from confrere_deploy.study.tune import carry_out


def test_sites_fine_tune_together_and_are_judged_on_held_out_patients(
    tiny: Path, tmp_path: Path
) -> None:
    report = tune(tiny, tmp_path / "out", run=short(floors="all"))

    assert set(report["arms"]) == {"federated", "raw", "probe", "local", "centralised"}
    federated = report["arms"]["federated"]["figures"]
    assert federated["auc"]["low"] <= federated["auc"]["mean"] <= federated["auc"]["high"]
    assert {"brier", "ece", "recall of 2"} <= federated.keys()
    assert set(report["differences"]) >= {"federated-raw", "federated-local"}
    assert report["chances"].keys() == report["differences"].keys()
    assert all(0 < one["p"] <= one["p_corrected"] <= 1 for one in report["chances"].values())
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
    assert any("No round was chosen, the last one" in said for said in private["warnings"])
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


def test_floors_are_had_without_validation_patients(tiny: Path, tmp_path: Path) -> None:
    source = {"name": "phantom", "modality": "lesion", "images": 48, "patients": 24, "sites": 2}
    data = {"source": {**source, "image_px": 16}, "image_px": 16, "val_share": 0.0}
    run_file = lesions(tiny.parent, data=data)

    report = tune(run_file, tmp_path / "out", run=short(1, floors="cheap"))

    assert {"raw", "probe"} <= set(report["arms"])
    assert any("no validation patients" in said for said in report["warnings"])
    for arm in report["arms"].values():
        assert "specificity_at_validation_threshold" not in arm["figures"]


def test_pictures_lie_beside_a_report_that_holds_none(tiny: Path, tmp_path: Path) -> None:
    report = tune(tiny, tmp_path / "out", alone=True, run=short(1, floors="none"))

    assert report["pictures"]
    assert "data:image" not in (tmp_path / "out/report.html").read_text()
    assert "do not pass it on" in (tmp_path / "out/pictures.html").read_text()
