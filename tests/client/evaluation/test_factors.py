"""Groups by what a catalog says of patients and acquisitions, however people write it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from confrere_client.evaluation import factors
from confrere_common.family import Named


def test_a_catalog_s_columns_make_groups_and_a_lone_group_is_left_out(
    tmp_path: Path, paint: Any
) -> None:
    for name in "abc":
        paint(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text(
        "path,sex,age,vendor,slice_thickness_mm\na.png,F,70.0,ACME,1\nb.png,male,,ACME,\nc.png,,9,ACME,5"
    )
    source = Named(name="catalog", knobs={"path": "t.csv"})

    found = factors.groups_of(source, tmp_path, ["c.png", "a.png", "b.png"])

    assert set(found) == {"sex", "age", "slice_thickness_mm"}
    assert found["sex"].tolist() == ["", "female", "male"]
    assert found["age"].tolist() == ["0-17", "60-79", ""]
    assert found["slice_thickness_mm"].tolist() == ["5 mm and over", "under 1.5 mm", ""]


@pytest.mark.parametrize(
    ("written", "band"),
    [("045Y", "40-59"), ("45", "40-59"), ("0", "0-17"), ("011M", "0-17"), ("020D", "0-17"),
     ("121", ""), ("-3", ""), ("nan", ""), ("old", ""), ("", "")],
)  # fmt: skip
def test_an_age_is_read_as_people_and_dicom_write_it(written: str, band: str) -> None:
    assert factors.ages([written]).tolist() == [band]


@pytest.mark.parametrize("written", ["inf", "0", "-1", "thin"])
def test_a_thickness_that_is_none_is_not_known(written: str) -> None:
    assert factors.slices([written]).tolist() == [""]


def test_images_that_the_source_does_not_know_are_in_no_group(tmp_path: Path) -> None:
    source = Named(name="phantom", knobs={"images": 4, "patients": 4, "sites": 1})

    assert not factors.groups_of(source, tmp_path, np.array(["phantom-000000"]))
