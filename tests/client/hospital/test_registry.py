"""Data sets are registered under names; paths and patients stay in the site's own file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from tiny_runs import tiny_run

from confrere_client.hospital.registry import (
    Lent,
    Registered,
    add,
    chosen,
    dataset_of,
    images_for,
    printable,
    registered,
)
from confrere_client.source import open_source
from confrere_common.codes import code_of
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.log import reason

Paint = Callable[..., Path]


def table(folder: Path, paint: Paint, rows: str, name: str = "table.csv") -> Path:
    for line in rows.split()[1:]:
        paint(folder / line.split(",")[0])
    (folder / name).write_text("\n".join(rows.split()))
    return folder / name


def fault(folder: Path, name: str, path: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as told:
        add(folder, name, path, **options)
    return str(told.value)


SIX = "path,patient,site,split 1.png,a,n,train 2.png,a,n,train 3.png,b,n,test 4.png,c,s,train"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def test_a_folder_of_images_is_registered(site: Path, tmp_path: Path, paint: Paint) -> None:
    for index in range(3):
        paint(tmp_path / "scans" / f"{index}.png")

    entry = add(site, "scans", tmp_path / "scans", modality="mri")

    assert (entry.source.name, entry.images, entry.patients) == ("folder", 3, 3)
    assert registered(site) == {"scans": entry}
    assert (site / "data.yaml").read_text().startswith("# Data sets that this site lends")


def test_tables_and_archives_are_known_by_their_names(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    np.savez(tmp_path / "all.npz", train_images=noise[:4], test_images=noise)
    made = table(tmp_path, paint, SIX)
    pa_parquet.write_table(pa.table({"path": ["1.png"]}), tmp_path / "one.parquet")

    entries = [
        add(site, "a", tmp_path / "all.npz"),
        add(site, "b", str(made)),
        add(site, "c", tmp_path / "one.parquet"),
    ]

    assert [entry.source.name for entry in entries] == ["npz", "catalog", "catalog"]
    assert [entry.images for entry in entries] == [4, 3, 1]
    assert entries[1].patients == 2
    assert list(registered(site)) == ["a", "b", "c"]


def test_knobs_reach_the_source(site: Path, tmp_path: Path, paint: Paint) -> None:
    made = table(tmp_path, paint, "file,lesion 1.png,x 2.png,x")

    entry = add(site, "derm", made, knobs={"path_column": "file", "patient_column": "lesion"})

    assert (entry.images, entry.patients) == (2, 1)
    assert "unknown key 'lesion_column'" in fault(
        site, "d", made, knobs={"lesion_column": "lesion"}
    )


def test_a_phantom_needs_no_path(site: Path) -> None:
    knobs = {"images": 12, "patients": 6, "sites": 2, "image_px": 16}

    entry = add(site, "toy", "", source="phantom", knobs=knobs)
    part = add(site, "part", "", source="phantom", only_site="site-a", knobs={**knobs, "seed": 1})

    assert (entry.images, entry.patients) == (12, 6)
    assert 0 < part.images < 12


def test_images_under_a_second_name_would_have_a_second_budget(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    made = table(tmp_path, paint, SIX)
    add(site, "all", made)

    assert "are registered already, as 'all'" in fault(site, "again", made)
    assert "are registered already, as 'all'" in fault(site, "again", made, only_site="n")


def test_what_names_no_patient_is_told(site: Path, tmp_path: Path, paint: Paint) -> None:
    entry = add(site, "half", table(tmp_path, paint, "path,patient 1.png,x 2.png, 3.png,"))

    assert (entry.images, entry.unknown_patients) == (3, 2)


def test_one_acquisition_site_of_a_table_can_be_lent(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    made = table(tmp_path, paint, SIX)

    assert add(site, "south", made, only_site="s").images == 1
    assert "unknown acquisition site 'x'" in fault(site, "x", made, only_site="x")


@pytest.mark.parametrize("name", ["", "../up", "a b", "SMITH^JOHN", ".hidden", "x" * 65, "a\n"])
def test_a_name_is_plain(site: Path, tmp_path: Path, name: str) -> None:
    assert "cannot be called" in fault(site, name, tmp_path)
    assert not (site / "data.yaml").exists()


def test_a_name_is_taken_once_unless_replaced(site: Path, tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "scans" / "1.png")
    add(site, "scans", tmp_path / "scans")
    paint(tmp_path / "scans" / "2.png")

    assert "registered already" in fault(site, "scans", tmp_path / "scans")
    assert add(site, "scans", tmp_path / "scans", replace=True).images == 2


def test_what_cannot_be_read_is_told_with_advice(site: Path, tmp_path: Path, paint: Paint) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.docx").write_text("x")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"no picture")
    made = table(tmp_path, paint, "path,split 1.png,val 2.png,val")

    assert "there is nothing at" in fault(site, "a", tmp_path / "nowhere")
    assert "holds no image" in fault(site, "a", tmp_path / "empty")
    assert "give an .npz file, a table" in fault(site, "a", tmp_path / "note.docx")
    assert "none of 1 images tried can be read" in fault(site, "a", tmp_path / "bad")
    assert "none is left to train on" in fault(site, "a", made)
    assert "unknown modality 'derm'" in fault(site, "a", made, modality="derm")
    assert "unknown source 'csv'" in fault(site, "a", made, source="csv")
    assert "unknown source 'site'" in fault(site, "a", made, source="site")
    assert not (site / "data.yaml").exists()


def test_all_faults_of_the_file_are_told_at_once_and_none_leaves(site: Path) -> None:
    (site / "data.yaml").write_text(
        "a: {source: {name: folder, path: /wards/SMITH^JOHN}, images: 0, patients: 1}\n"
        "b: {source: {name: foldr}, images: 1, patients: 1, immages: 1}\n"
        "c: {source: {name: folder, where: x}, images: 1, patients: 1}\n"
        "d: 7\n"
        "../e: {source: {name: folder, path: x}, images: 1, patients: 1}\n"
    )

    with pytest.raises(DataError) as told:
        registered(site)

    for said in ("a: images is 0", "b: unknown key 'immages'", "c: unknown key 'where'",
                 "d: is no data set", "../e: name is"):  # fmt: skip
        assert said in str(told.value)
    assert "SMITH" not in reason(told.value)
    assert code_of(told.value) == "data-unreadable"


def test_a_file_that_is_no_yaml_is_told(site: Path) -> None:
    (site / "data.yaml").write_text("a: [")

    with pytest.raises(DataError, match="is not YAML"):
        registered(site)
    assert registered(site / "other") == {}


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (["", "", "", ""], [0, 1, 2, 3]),
        (["train", "train", "val", "test"], [0, 1]),
        (["train", "", "test", ""], [0]),
        (["", "", "test", "val"], [0, 1]),
    ],
)
def test_only_rows_for_training_are_lent(
    tmp_path: Path, paint: Paint, splits: list[str], used: list[int]
) -> None:
    rows = " ".join(f"{number}.png,{split}" for number, split in enumerate(splits))
    table(tmp_path, paint, f"path,split {rows}")
    whole = open_source(Named(name="catalog", knobs={"path": "table.csv"}), tmp_path)

    assert [record.name for record in Lent(whole).records()] == [f"{row}.png" for row in used]


def test_a_cap_takes_the_same_images_every_time_and_fewer_of_the_same(site: Path) -> None:
    entry = add(
        site, "toy", "", source="phantom", knobs={"images": 60, "patients": 30, "image_px": 16}
    )
    whole = open_source(entry.source, Path())

    ten, again, five = (
        [record.name for record in Lent(whole, at_most=most).records()] for most in (10, 10, 5)
    )

    assert len(ten) == 10
    assert ten == again == sorted(ten)
    assert set(five) < set(ten)
    assert ten != [record.name for record in whole.records()][:10]


def test_images_come_as_the_run_asks_and_only_those_for_training(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    entry = add(site, "derm", table(tmp_path, paint, SIX))
    run = tiny_run(data={"source": {"name": "site", "dataset": "derm"}, "channels": 3})

    images = images_for(entry, run, tmp_path / "cache")
    capped = images_for(entry, run, tmp_path / "cache", at_most=2)

    assert images.pixels.shape == (3, 3, 16, 16)
    assert images.catalog.patient_count == 2
    assert len(capped) == 2
    assert images.digest != capped.digest


def test_images_of_other_axes_are_refused(site: Path, tmp_path: Path) -> None:
    entry = add(
        site,
        "toy",
        "",
        source="phantom",
        knobs={"images": 4, "patients": 2, "sites": 1, "image_px": 16},
    )

    with pytest.raises(DataError, match="asks for 3-D images; those of 'toy' are 2-D"):
        images_for(entry, tiny_run(data={"dims": 3}), tmp_path / "cache")


def test_a_run_names_a_registered_data_set_and_nothing_else() -> None:
    def named(source: dict[str, Any]) -> str | None:
        return dataset_of(tiny_run(data={"source": source}))

    assert named({"name": "site", "dataset": "derm"}) == "derm"
    assert named({"name": "site"}) is None
    for bad in (
        {"name": "folder", "path": "/"},
        {"name": "site", "path": "/"},
        {"name": "site", "dataset": "../x"},
    ):
        with pytest.raises(DataError):
            named(bad)


def test_a_choice_is_guessed_only_where_there_is_one() -> None:
    assert chosen(None, ["derm"]) == "derm"
    assert chosen("ct", ["ct", "derm"]) == "ct"
    with pytest.raises(DataError, match="did you mean 'derm'"):
        chosen("drm", ["ct", "derm"])
    with pytest.raises(DataError, match="there are several: ct, derm"):
        chosen(None, ["derm", "ct"])
    with pytest.raises(DataError, match="no data set is registered"):
        chosen(None, [])


def test_text_from_outside_is_one_short_line() -> None:
    assert printable("a\x1b[2J\nb\u202e") == "a?[2J?b?"
    assert printable("x" * 61) == "x" * 57 + "..."
    assert printable("x" * 60) == "x" * 60


def test_what_is_registered_never_names_its_path_by_itself(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    paint(tmp_path / "SMITH^JOHN" / "SMITH^JOHN.png")

    entry = add(site, "scans", tmp_path / "SMITH^JOHN")

    assert isinstance(entry, Registered)
    assert "SMITH" in (site / "data.yaml").read_text()
    assert "SMITH" not in entry.name


def test_a_data_set_that_was_prepared_otherwise_than_a_run_demands_takes_no_part(
    site: Path, tmp_path: Path, paint: Paint
) -> None:
    from confrere_client.ingest.prepare import Order, prepare

    for index in range(4):
        paint(tmp_path / "scans" / f"{index}.png", seed=index)
    prepare(Order(sources=(tmp_path / "scans",), dataset=tmp_path / "set"))
    ready, bare = add(site, "set", tmp_path / "set"), add(site, "bare", tmp_path / "scans")
    same, other = (
        tiny_run(data={"channels": None, "preparation": {"image_px": px}}) for px in (256, 512)
    )

    images = images_for(ready, same, tmp_path / "cache")

    assert images.preparation is not None
    assert images.preparation["image_px"] == 256
    with pytest.raises(DataError, match="image_px is 256, not 512"):
        images_for(ready, other, tmp_path / "cache")
    with pytest.raises(DataError, match="were not prepared"):
        images_for(bare, same, tmp_path / "cache")
