"""Volumes are answered whole: outlines and maps of anomaly window by window, as NIfTI."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from asking import ask, table
from networks import fresh
from tiny_runs import tuning
from typer.testing import CliRunner
from volumes import balls, crop_run

from confrere_client.source import Record, open_source
from confrere_common.family import Named
from confrere_deploy.cli import app

SEGMENTATION = {"task": {"name": "segmentation", "width": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("volumes")
    balls(made)
    return made


def tuned(folder: Path, **sections: Any) -> Path:
    """Fine-tune on the data set by the command; return where it lies."""
    out = folder / f"tuned-{len([*folder.glob('tuned-*.yaml')])}"
    run = out.with_suffix(".yaml")
    run.write_text(yaml.safe_dump(crop_run(stage="finetune", **sections)))
    result = CliRunner().invoke(app, ["finetune", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def records_in(folder: Path) -> dict[str, Record]:
    named = Named(name="prepared", knobs={"path": str(folder / "set")})
    return {record.name: record for record in open_source(named, folder).records()}


def volume(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return voxels along Z Y X, and their spacing."""
    image: Any = nib.load(path)
    assert image.header.get_xyzt_units()[0] == "mm"
    return np.asarray(image.dataobj).transpose(2, 1, 0), image.header.get_zooms()[::-1]


def test_whole_volumes_are_outlined_by_a_network_of_crops(folder: Path, tmp_path: Path) -> None:
    train = {"steps_per_round": 25, "lr": 0.01}
    release = tuned(folder, finetune=SEGMENTATION, train=train, floors="none")

    ask(release, folder / "set", tmp_path / "out")

    found, records = table(tmp_path / "out/answers.csv"), records_in(folder)
    assert set(found["id"]) == set(records)
    assert set(found["spacing_mm"]) == {"2 1 1"}
    dice = []
    for name, file, voxels in zip(found["id"], found["file"], found["voxels of 1"], strict=True):
        mask, spacing_mm = volume(tmp_path / "out" / file)
        drawn = records[name].mask
        truth = drawn() if drawn is not None else mask
        assert mask.shape == truth.shape == records[name].decode().shape[1:]
        assert spacing_mm == (2.0, 1.0, 1.0)
        assert voxels == (mask > 0).sum()
        dice.append(
            2 * ((mask > 0) & (truth > 0)).sum() / max((mask > 0).sum() + (truth > 0).sum(), 1)
        )
    assert np.mean(dice) > 0.4


def test_whole_volumes_are_outlined_by_a_network_that_saw_them_shrunk(
    folder: Path, tmp_path: Path
) -> None:
    data = {"source": {"name": "prepared", "path": "set"}, "image_px": 8, "crop_px": None}
    release = tuned(folder, finetune=SEGMENTATION, data=data, floors="none")

    ask(release, folder / "set", tmp_path / "out")

    records = records_in(folder)
    for name, record in records.items():
        mask, spacing_mm = volume(tmp_path / f"out/masks/{name}.nii.gz")
        assert mask.shape == record.decode().shape[1:]
        assert spacing_mm == (2.0, 1.0, 1.0)


def test_a_map_of_anomaly_covers_all_of_a_volume(folder: Path, tmp_path: Path) -> None:
    task = {"task": {"name": "anomaly", "normal": "a", "bottleneck": 8, "score": "unusual"}}
    release = tuned(folder, finetune=task, floors="none")

    ask(release, folder / "set", tmp_path / "out", "--normal", folder / "set")

    found, records = table(tmp_path / "out/answers.csv"), records_in(folder)
    assert found["score (unusual)"] == found["unusual"]
    for name, file, worst in zip(
        found["id"], found["file"], found["foretold anywhere"], strict=True
    ):
        map_ZYX, _ = volume(tmp_path / "out" / file)
        assert map_ZYX.shape == records[name].decode().shape[1:]
        assert map_ZYX.max() == pytest.approx(worst, rel=1e-5)
        assert map_ZYX.min() < map_ZYX.max()


@pytest.mark.parametrize("task", ["classification", "retrieval"])
def test_other_tasks_answer_for_the_middle_crop(task: str, folder: Path, tmp_path: Path) -> None:
    release = tuned(folder, finetune={"task": task}, floors="none")

    ask(release, folder / "set", tmp_path / "out")

    if task == "classification":
        assert len(table(tmp_path / "out/answers.csv")["p(b)"]) == 12
    else:
        assert (tmp_path / "out/index.parquet").is_file()


def test_slices_of_volumes_are_asked_about_one_by_one(folder: Path, tmp_path: Path) -> None:
    release = fresh(tmp_path / "tuned", tuning())

    ask(release, folder / "set", tmp_path / "out", "--set", "slices=axial", "--set", "slice_step=4")

    found = table(tmp_path / "out/answers.csv")
    assert len(found["id"]) == sum(
        -(-record.decode().shape[1] // 4) for record in records_in(folder).values()
    )
    assert all("#" in name for name in found["id"])
