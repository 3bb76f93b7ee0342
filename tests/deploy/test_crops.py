"""Runs on crops of volumes as they are: trained, resumed, fine-tuned, evaluated, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner
from volumes import balls, crop_run

from confrere_common.errors import ConfigError
from confrere_deploy.cli import app

SIMMIM = {"name": "simmim", "head": 16, "block": 4}
SEGMENTATION = {"task": {"name": "segmentation", "width": 4}, "classes": ["ball"]}
CLASSIFICATION = {"task": "classification", "classes": ["a", "b"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("balls")
    balls(made, 16)
    return made


def said(*words: Any) -> str:
    result = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: Any) -> str:
    result = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(crop_run(**sections)))
    return path


def report_in(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_equal_runs_give_equal_bits_also_when_one_is_taken_up_again(
    folder: Path, tmp_path: Path
) -> None:
    run = written(folder, method=SIMMIM)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    plan = said("simulate", run, "--out", whole)
    said("simulate", run, "--out", halves)
    first = halves / "federated/seed-0/checkpoints"
    for path in sorted(first.glob("round-0002/*")):
        path.unlink()
    (first / "round-0002").rmdir()
    (halves / "federated/seed-0/scores.npz").unlink(missing_ok=True)

    said("simulate", run, "--out", halves, "--resume")

    # Where the table is narrow the words stand in two of its lines.
    words = " ".join(plan.replace("│", " ").split())
    assert "1 x 8 x 8 x 8 (crops of 9 x 10 x 11 to 18 x 14 x 16)" in words
    assert "prepared" in json.loads((whole / "encoder.json").read_text())["preprocessing"]
    assert (whole / "encoder.safetensors").read_bytes() == (
        halves / "encoder.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("crop_px", [[8, 8, 12], 16], ids=["uneven", "larger-than-any"])
def test_crops_may_have_three_sides_and_reach_beyond_volumes(
    folder: Path, tmp_path: Path, crop_px: Any
) -> None:
    run = written(folder, method="byol", data={"crop_px": crop_px}, federation={"rounds": 1})

    plan = " ".join(said("simulate", run, "--out", tmp_path / "out").split())

    due = crop_px if isinstance(crop_px, list) else [crop_px] * 3
    assert report_in(tmp_path / "out")["data"]["size"] == due
    assert "filled up with black" in plan


def test_private_and_masked_rounds_take_crops_too(folder: Path, tmp_path: Path) -> None:
    privacy = {"epsilon": 8, "patients_per_step": 3, "micro_batch": 4}
    run = written(folder, method=SIMMIM, privacy=privacy, secure_aggregation={},
                  data={"split": {"name": "iid", "sites": 3}})  # fmt: skip

    said("simulate", run, "--out", tmp_path / "out")

    assert report_in(tmp_path / "out")["protection"]["sites"]


def test_a_segmentation_learns_from_crops_and_answers_for_whole_volumes(
    folder: Path, tmp_path: Path
) -> None:
    train = {"steps_per_round": 25, "lr": 0.01}
    run = written(folder, stage="finetune", finetune=SEGMENTATION, train=train)

    said("finetune", run, "--out", tmp_path / "out")

    figures = report_in(tmp_path / "out")["arms"]["tuned"]["figures"]
    assert figures["dice"]["mean"] > 0.4
    # Millimetres: the balls are at most 8 mm wide, the volumes' diagonals 27 to 39.
    assert 0 <= figures["hd95 mm"]["mean"] < 39
    assert figures["hd95 mm"]["mean"] > figures["hd95 over diagonal"]["mean"] * 26
    assert (tmp_path / "out/pictures.html").is_file()


def test_an_encoder_of_crops_starts_a_classification_that_is_evaluated(
    folder: Path, tmp_path: Path
) -> None:
    said("simulate", written(folder, method="byol"), "--out", tmp_path / "one")
    start = tmp_path / "one/encoder.safetensors"
    run = written(folder, stage="finetune", finetune=CLASSIFICATION, floors="cheap")

    said("finetune", run, "--encoder", start, "--out", tmp_path / "two")
    said("evaluate", run, "--encoder", start, "--robustness", "--out", tmp_path / "three")

    assert report_in(tmp_path / "two")["arms"].keys() >= {"tuned", "raw", "probe"}
    assert report_in(tmp_path / "three")["robustness"]


def test_worse_volumes_are_segmented_worse_as_a_whole(folder: Path, tmp_path: Path) -> None:
    train = {"steps_per_round": 25, "lr": 0.01}
    run = written(folder, stage="finetune", finetune=SEGMENTATION, train=train)

    said("evaluate", run, "--robustness", "--out", tmp_path / "out")

    (curves,) = [one["curves"] for one in report_in(tmp_path / "out")["robustness"]]
    assert any(
        point["mean"] != curve[0]["mean"] for curve in curves.values() for point in curve[1:]
    )


def test_a_sound_run_passes_and_the_option_is_explained(folder: Path) -> None:
    told = said("check", written(folder, method="byol"), "--explain")

    assert "crop_px: [8]    #" in told
    assert "window by window" in " ".join(told.replace("#", " ").split())


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"data": {"crop_px": [8, 8]}}, "data.crop_px has 2 sides, and the images have 3 axes"),
        ({"data": {"crop_px": []}}, "give one number, or one for each of [Z] Y X"),
        ({"data": {"crop_px": 4}}, "data.crop_px.0 is 4"),
        (
            {"encoder": {"name": "vit", "patch": 5, "dim": 12, "depth": 1, "heads": 2}},
            "patch",
        ),
        (
            {"stage": "finetune", "finetune": {"task": "detection", "classes": ["ball"]}},
            "task 'detection' knows boxes of whole images, which are not cut with crops",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_done(
    folder: Path, changes: dict[str, Any], due: str
) -> None:
    run = written(folder, **{"method": "simmim", **changes})

    assert due in refused("check", run)


def test_an_engine_that_hands_out_whole_images_is_refused(folder: Path, tmp_path: Path) -> None:
    run = written(folder, method="byol")

    told = refused("simulate", run, "--engine", "ray", "--out", tmp_path / "out")

    assert "--engine ray hands out images of one size, and data.crop_px takes crops" in told
    assert not (tmp_path / "out").exists()
