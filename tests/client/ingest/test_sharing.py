import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from confrere_client.describing import TooFewPatients, describe
from confrere_client.hospital.policy import Policy
from confrere_client.hospital.registry import add, open_registered, registered
from confrere_client.ingest.judging.sharing import ASKED, readable
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_common.describe import MEASURES, description_text

KINDS = {"dx": 20, "us": 2, "cr": 1}
"""Modality -> patients; 23 in all: who is told 20 of 23 knows that 3 are left."""


def hospital(folder: Path, splits: tuple[str, ...] = ("",)) -> Path:
    """Prepare two pictures of each patient, one copy, one of nobody known; return the data set."""
    import pydicom
    from dicom_files import dataset, written

    (folder / "in").mkdir(parents=True)
    rows, number = ["path,split"], 0
    for kind, patients in KINDS.items():
        for patient in range(patients):
            for _ in range(2):
                noise = np.random.default_rng(number).integers(
                    0, 256, (24 + number % 9, 32), np.uint8
                )
                own = {
                    "Modality": kind.upper(), "PatientID": f"PAT-{kind}-{patient:05d}",
                    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "Manufacturer": "Philips",
                    "SeriesInstanceUID": f"1.2.3.{number}",
                }  # fmt: skip
                ds: pydicom.Dataset = dataset(noise, **own)
                written(ds, folder / f"in/{number}.dcm")
                rows.append(f"{number}.dcm,{splits[patient % len(splits)]}")
                number += 1
    for name in ("one", "copy"):
        noise = np.random.default_rng(99).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(noise).save(folder / f"in/{name}.png")
    (folder / "in/t.csv").write_text("\n".join(rows))
    table = folder / "in/t.csv"
    out = folder / "set"
    prepare(Order(sources=(folder / "in",), dataset=out, table=table, plan=Plan(burnt_in="flag")))
    return out


def answered(out: Path) -> dict[str, Any]:
    """Return what a run that describes is answered, as the daemon does: lent, under a policy."""
    site = out.parent / "site"
    site.mkdir()
    add(site, "lent", out)
    entry, policy = registered(site)["lent"], Policy()
    records = open_registered(entry, policy.max_images).records()
    told = describe(
        records, ASKED, smallest=policy.min_cell, vouched=entry.one_image_per_patient,
        modality=entry.modality,
    )  # fmt: skip
    return {"images": entry.images, **json.loads(description_text(told, ASKED))}


@pytest.mark.parametrize(
    "splits", [("",), ("train", "train", "test"), ("", "val")], ids=["unsplit", "split", "half"]
)
def test_the_report_shows_what_a_describing_run_is_answered(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    out = hospital(tmp_path, splits)

    [part] = json.loads((out / "report.json").read_text())["shared"]

    assert part.pop("dims") == 2
    assert part == answered(out)


def test_no_small_count_is_shown_nor_found_by_subtraction(tmp_path: Path) -> None:
    out = hospital(tmp_path)

    [part] = json.loads((out / "report.json").read_text())["shared"]

    assert part["patients"] == 23
    for name, told in part["counts"].items():
        counts = [count for *_, count in told["cells"]]
        assert all(count >= 5 for count in counts), name
        assert sum(counts) + told["untold"] == 23
        assert told["untold"] == 0 or told["untold"] >= 5, name
    # 20 dx, 2 us, 1 cr: 20 of 23 would leave 3, so nothing is told
    assert part["counts"]["modality"] == {"cells": [], "untold": 23}
    page = (out / "report.html").read_text()
    shared = page[page.index("What would be shared") :]
    assert "dx" not in {text.strip() for text in shared.replace("<", ">").split(">")}
    assert MEASURES["modality"].title in shared


def test_pictures_and_volumes_are_told_apart_and_few_patients_tell_nothing(tmp_path: Path) -> None:
    import nibabel

    out = hospital(tmp_path / "a")
    rng = np.random.default_rng(0)
    image = nibabel.Nifti1Image(rng.normal(0, 9, (9, 10, 8)).astype(np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "a/in/volume.nii.gz")
    prepare(Order(
        sources=(tmp_path / "a/in",), dataset=out, table=tmp_path / "a/in/t.csv",
        plan=Plan(burnt_in="flag"),
    ))  # fmt: skip

    pictures, volumes = json.loads((out / "report.json").read_text())["shared"]

    assert (pictures["dims"], pictures["images"], pictures["patients"]) == (2, 47, 23)
    assert volumes == {"dims": 3, "images": 1, "patients": None, "smallest": 5, "counts": None}
    page = (out / "report.html").read_text()
    assert "No count: fewer than 5 patients are known." in page
    with pytest.raises(TooFewPatients):
        describe([], ASKED)


def test_a_run_s_and_a_policy_s_defaults_are_those_of_the_report() -> None:
    assert ASKED.min_cell == Policy().min_cell == 5


def test_cells_are_called_by_their_edges(tmp_path: Path) -> None:
    [part] = json.loads((hospital(tmp_path) / "report.json").read_text())["shared"]

    told = {title: cells for title, cells, _ in readable(part)}

    assert told[MEASURES["images"].title] == [("2 to 3", 23)]
    assert told[MEASURES["channels"].title] == [("grey", 23)]
    assert all(count >= 5 for cells in told.values() for _, count in cells)
