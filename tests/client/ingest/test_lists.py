"""What a data manager finds in the private folder: which exam came from which files."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from broken_files import picture
from dicom_files import dataset, written
from preparing import parent, prepared

from confrere_client.ingest.keeping.lists import MOST_PATHS, private_list
from confrere_client.ingest.keeping.shards import DiskFault
from confrere_client.ingest.prepare import private_folder


def listed(folder: Path) -> list[dict[str, str]]:
    with (private_folder(folder / "out") / "exams.csv").open(newline="") as file:
        assert next(file).startswith("# THIS LIST HOLDS NAMES")
        return [*csv.DictReader(file)]


def test_a_flagged_exam_is_found_with_its_file_and_the_one_that_it_is_like(tmp_path: Path) -> None:
    picture(tmp_path / "in/Müller, Ada.png", 1)
    picture(tmp_path / "in/copy/of her.png", 1)
    picture(tmp_path / "in/other.png", 2)

    _, made = prepared(tmp_path)
    lines = {line["key"]: line for line in listed(tmp_path)}
    [copy] = [line for line in lines.values() if "duplicate" in line["flags"]]

    assert lines.keys() == {row["key"] for row in made.rows()}
    assert {copy["paths"], lines[copy["like"]]["paths"]} == {
        str(tmp_path / "in/Müller, Ada.png"), str(tmp_path / "in/copy/of her.png"),
    }  # fmt: skip
    assert [line["like"] for line in lines.values() if not line["flags"]] == ["", ""]
    file = private_folder(tmp_path / "out") / "exams.csv"
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [path for path in file.parent.iterdir() if path.name.startswith(".exams")]


def test_a_series_with_a_gap_says_so_beside_its_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    at = parent(tmp_path / "in")
    for z in (*range(15), *range(16, 31)):
        own = {"ImagePositionPatient": [0, 0, 2.0 * z], "PixelSpacing": [1, 1], "RescaleSlope": 1}
        ct = dataset(
            rng.integers(0, 900, (24, 24)).astype(np.int16), z + 1, RescaleIntercept=0,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **own,
        )  # fmt: skip
        written(ct, at / f"IM{z:03}")

    prepared(tmp_path)
    [line] = listed(tmp_path)

    assert (line["kind"], line["files"]) == ("ct 3-D", "30")
    assert "gap between slices" in line["warnings"]
    assert line["paths"].split("\n") == [
        str(at / f"IM{z:03}") for z in [*range(15), *range(16, 31)][:MOST_PATHS]
    ]


def test_of_a_file_of_many_exams_each_says_which_it_is(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    np.savez(parent(tmp_path / "in") / "a.npz", train_images=images, train_labels=np.arange(4))

    prepared(tmp_path)

    assert len({line["part"] for line in listed(tmp_path)}) == 4
    assert {line["paths"] for line in listed(tmp_path)} == {str(tmp_path / "in/a.npz")}


def broken_off(path: Path, rows: int) -> None:
    with private_list(path, ("a",)) as table:
        for number in range(rows):
            table.writerow([number])
        raise ZeroDivisionError


def test_a_list_is_whole_or_as_it_was_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")

    tracemalloc.start()
    with pytest.raises(ZeroDivisionError):
        broken_off(path, 300_000)  # two megabytes
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert most < 500_000
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(DiskFault):
        broken_off(tmp_path / "none/b.csv", 1)


def test_a_report_says_where_the_exams_are_listed(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 1)

    prepared(tmp_path)

    assert "<code>exams.csv</code>" in (tmp_path / "out/report.html").read_text()
    assert "Müller" not in json.dumps(listed(tmp_path))
