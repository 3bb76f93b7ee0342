"""From files as hospitals have them to a trained encoder, as a user would go: by commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pacs import Export, export
from typer.testing import CliRunner

from confrere_client.ingest.judging.phi import check_phi
from confrere_client.source import open_source
from confrere_common.family import Named
from confrere_deploy.cli import app

SIZE = 60


def ran(*words: Any) -> str:
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def trained(
    folder: Path, source: dict[str, Any], data: dict[str, Any] | None = None, **run: Any
) -> dict[str, Any]:
    """Write a run on a prepared data set, simulate it, return its report."""
    text = {
        "name": "tiny",
        "data": {
            "source": {"name": "prepared", **source},
            "image_px": 16,
            "split": {"name": "iid", "sites": 2},
            **(data or {}),
        },
        "train": {"batch": 2, "steps_per_round": 1},
        "federation": {"rounds": 1},
        "floors": "none",
        **run,
    }
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(text))
    ran("simulate", folder / "run.yaml", "--out", folder / "out")
    assert (folder / "out/encoder.safetensors").is_file()
    report: dict[str, Any] = json.loads((folder / "out/report.json").read_text())
    return report


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("pacs")
    made = export(folder / "export", SIZE, slices=6, side=32)
    out = folder / "set"
    said = ran("client", "prepare", made.folder, "--out", out, "--image-px", 32, "--check-phi")
    assert "none found" in said
    assert not [name for name in made.names if name in said]
    return made


@pytest.fixture(scope="module")
def rows(pacs: Export) -> list[dict[str, Any]]:
    return pq.read_table(pacs.folder.parent / "set/catalog.parquet").to_pylist()


def test_an_export_of_a_pacs_becomes_pictures_and_volumes(
    pacs: Export, rows: list[dict[str, Any]]
) -> None:
    volumes = {row["key"] for row in rows if row["tag_modality"] == "ct" and row["dims"] == 3}
    known = {row["patient"] for row in rows if row["patient_known"]}

    # a series for each patient, and the enhanced object and the archive of some
    assert len(volumes) >= len(pacs.people)
    assert {row["tag_modality"] for row in rows} >= {"ct", "cr", "dx", "us"}
    assert len(known) == len(pacs.people)


def test_every_file_of_an_export_that_is_no_image_has_its_reason(pacs: Export) -> None:
    told = json.loads((pacs.folder.parent / "set/report.json").read_text())["skipped"]

    assert told["localiser"] == len(pacs.people)
    assert {"structured report", "presentation state", "DICOMDIR", "truncated"} <= set(told)
    assert {"empty file", "corrupt", "of no known kind", "no pixel data"} <= set(told)


def test_a_search_for_names_finds_none_in_any_byte_of_a_data_set(pacs: Export) -> None:
    out = pacs.folder.parent / "set"

    found = check_phi(out, out.with_name("set.private") / "book.sqlite")

    assert not found.hits
    assert found.terms > len(pacs.names)
    for file in out.rglob("*.html"):
        text = file.read_text()
        assert not [name for name in pacs.names if name in text]


def test_an_export_trains_as_slices(pacs: Export, tmp_path: Path) -> None:
    source = {
        "path": str(pacs.folder.parent / "set"), "slices": "axial", "slice_step": 6,
        "modality": ["ct"],
    }  # fmt: skip

    report = trained(
        tmp_path / "run", source,
        encoder={"name": "resnet", "depth": 18, "width": 8}, method="simclr",
        augment={"modality": "ct"},
    )  # fmt: skip

    assert report["name"] == "tiny"
    prepared = report["data"]["preparation"]
    assert (prepared["ct_windows"], prepared["image_px"]) == (["wide"], 32)
    assert prepared["slices"] == "axial"
    assert "ct: hu windows (wide), cropped" in prepared["scaling"]
    assert not [name for name in pacs.names if name in json.dumps(prepared)]
    assert "image px 32" in (tmp_path / "run/out/report.html").read_text()
    ran("export", tmp_path / "run/out", "--out", tmp_path / "release", "--key", tmp_path / "k.key")
    card = json.loads((tmp_path / "release/card.json").read_text())
    assert card["preprocessing"]["prepared"]["hu_windows"] == {
        "wide": {"centre": 0.0, "width": 2000.0}
    }
    assert "Hounsfield" not in (tmp_path / "release/card.md").read_text()
    assert "hu windows" in (tmp_path / "release/card.md").read_text()


def test_the_input_of_a_ct_encoder_can_be_made_again_from_its_release_alone(
    tmp_path: Path,
) -> None:
    from dicom_files import dataset, written

    from confrere_common.augment.pipeline import normalise
    from confrere_common.release import load_release

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    hounsfield = [rng.integers(-1000, 1000, (16, 16)).astype(np.int16) for _ in range(12)]
    for number, values in enumerate(hounsfield):
        own = {"SeriesInstanceUID": f"1.2.3.{number}", "PatientID": f"PAT-{number}", "number": 1}
        ds = dataset(values, **own, RescaleSlope=1, RescaleIntercept=0, PixelSpacing=[1, 1])
        written(ds, tmp_path / f"in/{number}.dcm")
    ran(
        "client", "prepare", tmp_path / "in", "--out", tmp_path / "set",
        "--set", "ct_windows=[lung]", "--set", "crop_foreground=false",
    )  # fmt: skip
    trained(
        tmp_path / "run", {"path": str(tmp_path / "set")}, method="simclr",
        encoder={"name": "resnet", "depth": 18, "width": 8}, augment={"modality": "ct"},
    )  # fmt: skip

    _, card = load_release(tmp_path / "run/out/encoder.safetensors")
    window = card.preprocessing["prepared"]["hu_windows"]["lung"]
    made = [
        np.clip((values - window["centre"]) / window["width"] + 0.5, 0, 1) for values in hounsfield
    ]
    again = [(levels - card.preprocessing["mean"]) / card.preprocessing["std"] for levels in made]
    source = open_source(Named(name="prepared", knobs={"path": str(tmp_path / "set")}), tmp_path)
    seen = [
        normalise(torch.from_numpy(record.decode()[None].copy())).numpy()[0, 0]
        for record in source.records()
    ]

    assert all(any(np.abs(one - other).max() < 1e-3 for other in seen) for one in again)


def test_the_mean_stain_of_enough_patients_goes_from_tiles_to_the_card_of_a_release(
    tmp_path: Path,
) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    for number in range(8):
        rng = np.random.default_rng(number)
        tissue = rng.normal([190, 110, 170], 25, (40, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(tissue).save(tmp_path / f"in/{number}.png")
    rows = [f"{number}.png,P-{number % 5}" for number in range(8)]
    (tmp_path / "in/t.csv").write_text("\n".join(["path,patient", *rows]))
    ran(
        "client", "prepare", tmp_path / "in", "--out", tmp_path / "set",
        "--modality", "histology", "--catalog", tmp_path / "in/t.csv",
    )  # fmt: skip
    trained(
        tmp_path / "run", {"path": str(tmp_path / "set")}, method="simclr",
        encoder={"name": "resnet", "depth": 18, "width": 8}, augment={"modality": "histology"},
    )  # fmt: skip
    ran("export", tmp_path / "run/out", "--out", tmp_path / "release", "--key", tmp_path / "k.key")

    told = json.loads((tmp_path / "set/manifest.json").read_text())["stain"]
    prepared = json.loads((tmp_path / "release/card.json").read_text())["preprocessing"]["prepared"]
    page = (tmp_path / "set/report.html").read_text()

    assert (told["tiles"], told.pop("patients")) == (8, 5)
    assert prepared["stain"] == told
    # green is absorbed most in what is purple
    assert told["density_mean"][1] == max(told["density_mean"])
    assert told["haematoxylin"] > 0
    assert "stain is measured" in prepared["steps"]
    assert "stain density mean 0." in (tmp_path / "run/out/report.html").read_text()
    assert "8 tiles of stained tissue" in page


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nibabel

    folder = tmp_path_factory.mktemp("volumes")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        grid = np.indices((14, 18, 12)) - np.array([7, 9, 6]).reshape(3, 1, 1, 1)
        brain = (grid**2).sum(0) < 25 + number
        values = brain * 400 + rng.normal(40, 9, brain.shape)
        image = nibabel.Nifti1Image(values.astype(np.float32), np.diag([2, 2, 2, 1]))
        nibabel.save(image, folder / f"in/Quarkbein_{number}.nii.gz")
    ran(
        "client", "prepare", folder / "in", "--out", folder / "set",
        "--modality", "mr", "--spacing-mm", 2.5, "--check-phi",
    )  # fmt: skip
    return folder / "set"


METHODS = pytest.mark.parametrize(
    ("method", "encoder"),
    [
        ("simmim", {"name": "resnet", "depth": 18, "width": 8}),
        ("simmim", {"name": "vit", "dim": 12, "depth": 1, "heads": 2, "patch": 8}),
        ("byol", {"name": "resnet", "depth": 18, "width": 8}),
    ],
    ids=["simmim-resnet", "simmim-vit", "byol-resnet"],
)


@METHODS
def test_volumes_go_from_files_to_an_encoder_in_3d(
    volumes: Path, tmp_path: Path, method: str, encoder: dict[str, Any]
) -> None:
    report = trained(
        tmp_path / "run", {"path": str(volumes)},
        method=method, encoder=encoder, augment={"modality": "mri"},
    )  # fmt: skip

    assert report["name"] == "tiny"


@METHODS
def test_crops_of_volumes_as_they_are_train_an_encoder_in_3d(
    volumes: Path, tmp_path: Path, method: str, encoder: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CONFRERE_CACHE", str(tmp_path / "cache"))

    report = trained(
        tmp_path / "run", {"path": str(volumes)}, {"crop_px": 8},
        method=method, encoder=encoder, augment={"modality": "mri"}, floors="cheap",
    )  # fmt: skip

    assert report["data"]["size"] == [8, 8, 8]
    card = json.loads((tmp_path / "run/out/encoder.json").read_text())
    assert card["preprocessing"]["resize"].startswith("none: a crop")
    assert not (tmp_path / "cache").exists()  # the data set's own pixels were read
