"""What 'confrere client prepare' prints as the next step is what a run takes, on mixed sets too."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from broken_files import picture
from dicom_files import dataset, written
from typer.testing import CliRunner

from confrere_client.hospital.registry import add, registered
from confrere_deploy.cli import app
from confrere_deploy.commands.knobs import knobs_in

TRAINING = {
    "name": "tiny", "method": "simclr", "floors": "none", "federation": {"rounds": 1},
    "encoder": {"name": "resnet", "depth": 18, "width": 8},
    "train": {"batch": 2, "steps_per_round": 1},
}  # fmt: skip
"""All of a run that the printed lines do not say."""


def ran(*words: Any) -> str:
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def suggested(said: str) -> Iterator[dict[str, Any]]:
    """Yield the runs that are printed, each as its reader would paste it."""
    lines = said[said.index("Next, in a run") :].splitlines()
    for block in "\n".join(lines[1:]).split("\nor"):
        pasted = [line[2:] for line in block.splitlines() if line.startswith("  ")]
        if pasted:
            yield yaml.safe_load("\n".join(pasted))


def trained(folder: Path, run: dict[str, Any]) -> None:
    """Simulate two sites for one step of what was printed."""
    text = {**TRAINING, **run, "data": {**run["data"], "image_px": 16}}
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(text))
    ran("simulate", folder / "run.yaml", "--out", folder / "out")
    assert (folder / "out/encoder.safetensors").is_file()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a data set of pictures of two kinds and of volumes, and what was said of it."""
    folder = tmp_path_factory.mktemp("mixed: a set")
    rng = np.random.default_rng(0)
    for number in range(8):
        picture(folder / f"in/{number}.png", number)
        own = {"PatientID": f"PAT-{number}", "SeriesInstanceUID": f"1.2.3.{number}"}
        cr = {"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}
        noise = rng.integers(0, 256, (32, 32), np.uint8)
        written(dataset(noise, **{**own, **cr}), folder / f"in/cr{number}.dcm")
        for z in range(5 if number < 6 else 0):
            place = {
                "ImagePositionPatient": [0, 0, z],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            }
            values = rng.integers(-900, 900, (16, 16)).astype(np.int16)
            ct = dataset(
                values, z + 1, RescaleSlope=1, RescaleIntercept=0, PixelSpacing=[1, 1],
                PatientID=f"PAT-{number}", SeriesInstanceUID=f"1.2.4.{number}", **place,
            )  # fmt: skip
            written(ct, folder / f"in/ct{number}-{z}.dcm")
    return folder / "set", ran("client", "prepare", folder / "in", "--out", folder / "set")


def test_the_lines_for_a_mixed_set_say_which_axes_and_whose_views(mixed: tuple[Path, str]) -> None:
    out, said = mixed

    volumes, pictures = suggested(said)

    source = {"name": "prepared", "path": str(out)}
    iid = {"name": "iid", "sites": 2}
    assert volumes == {
        "data": {"source": {**source, "dims": 3}, "split": iid}, "augment": {"modality": "ct"}
    }  # fmt: skip
    assert pictures["data"] == {"source": {**source, "dims": 2}, "split": iid}
    assert "# 6 ct" in said
    assert "8 cr" in said
    assert "8 not said" in said


def test_each_of_the_printed_lines_trains(mixed: tuple[Path, str], tmp_path: Path) -> None:
    for number, run in enumerate(suggested(mixed[1])):
        trained(tmp_path / str(number), run)


def test_a_mixed_set_is_lent_by_the_printed_words(mixed: tuple[Path, str], tmp_path: Path) -> None:
    out, said = mixed
    [line] = [line for line in said.splitlines() if line.startswith("or lend it")]

    *command, name, path, option, knob, _, _ = shlex.split(line.partition(": ")[2])
    add(tmp_path, name, path, knobs=knobs_in([knob]))

    assert (command, option) == (["confrere", "client", "data", "add"], "--set")
    assert path == str(out)
    assert registered(tmp_path)[name].images == 6


def test_a_set_of_one_kind_needs_no_axes_and_one_with_sites_no_split(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / f"in/{number}.png", number)
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(6)]
    (tmp_path / "in/t.csv").write_text("\n".join(["path,site", *rows]))

    said = ran(
        "client", "prepare", tmp_path / "in", "--out", tmp_path / "set",
        "--catalog", tmp_path / "in/t.csv",
    )  # fmt: skip

    [run] = suggested(said)
    assert run == {"data": {"source": {"name": "prepared", "path": str(tmp_path / "set")}}}
    assert "--set dims" not in said
    trained(tmp_path / "run", run)


def test_what_too_few_patients_have_is_no_run_of_its_own(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"in/{number}.png", number)

    said = ran("client", "prepare", tmp_path / "in", "--out", tmp_path / "set")

    assert "Pictures of fewer than 3 patients are too few to train on alone." in said
    assert "Next, in a run" not in said
    assert "confrere client data add NAME" in said


@pytest.mark.parametrize("name", ["ingest_panimg"])
def test_a_folder_of_real_broken_files_trains_by_the_printed_lines(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    said = ran(
        "client", "prepare", shared_data / name, "--out", tmp_path / "set", "--image-px", 24,
        "--set", "max_tiles=2", "--check-phi",
    )  # fmt: skip

    runs = [*suggested(said)]

    assert "none found" in said
    assert 3 in {run["data"]["source"]["dims"] for run in runs}
    for number, run in enumerate(runs):
        trained(tmp_path / str(number), run)
