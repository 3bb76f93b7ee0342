"""Boxes that a table tells of lie in a prepared data set where their pixels do, or are counted."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import CR, dataset, written
from numpy.typing import NDArray
from PIL import Image

from confrere_client.data.images import images_of
from confrere_client.ingest.keeping.dataset import open_dataset, write_catalog
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.source import UnreadableImage, open_source
from confrere_common.family import Named

BLOCK = (8, 20, 24, 44)
"""X0 Y0 X1 Y1 of what is bright in a test's picture of 80 x 60."""


def scene(dtype: Any = np.uint8) -> NDArray[Any]:
    """Return a dark picture (Y, X) with one bright block."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 9, (60, 80)).astype(dtype)
    x0, y0, x1, y1 = BLOCK
    picture[y0:y1, x0:x1] = rng.integers(200, 250, (y1 - y0, x1 - x0))
    return picture


def told(folder: Path, boxes: dict[str, Any], **knobs: Any) -> Any:
    """Prepare what lies in *folder*/in with a table of *boxes*; return the source of it."""
    rows = ['"' + json.dumps(cell).replace('"', '""') + '"' for cell in boxes.values()]
    mask = "in/m.png" if (folder / "in/m.png").exists() else ""
    lines = [f"{name},{mask},{row}" for name, row in zip(boxes, rows, strict=True)]
    (folder / "t.csv").write_text("\n".join(["path,mask,boxes", *lines]))
    prepare(
        Order(
            sources=(folder / "in",), dataset=folder / "set", table=folder / "t.csv",
            **{"plan": Plan(image_px=40), **knobs},
        )
    )  # fmt: skip
    return open_source(Named(name="prepared", knobs={"path": "set"}), folder)


def around(image_CYX: NDArray[Any]) -> tuple[int, ...]:
    """Return the box around what is bright."""
    bright = image_CYX[0] > image_CYX.max() / 2
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.parametrize("name_first", [True, False])
def test_a_box_shrinks_with_its_picture_whichever_way_it_is_written(
    folder: Path, name_first: bool
) -> None:
    Image.fromarray(scene()).save(folder / "in/a.png")
    cell = [["cell", *BLOCK]] if name_first else [[*BLOCK, "cell"]]

    (record,) = told(folder, {"in/a.png": cell}).records()

    assert record.decode().shape == (1, 30, 40)
    assert record.boxes() == [("cell", tuple(side / 2 for side in BLOCK))]
    assert around(record.decode()) == tuple(side / 2 for side in BLOCK)


def test_a_box_is_of_the_picture_as_it_is_looked_at_not_as_it_was_stored(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(np.rot90(scene())).save(folder / "in/a.png", exif=exif)

    (record,) = told(folder, {"in/a.png": [["cell", *BLOCK]]}).records()

    assert record.boxes() == [("cell", around(record.decode()))]


@pytest.mark.parametrize(
    "lies", [None, ["L", "F"], ["R", "F"], ["L", "H"], ["R", "H"], ["F", "L"], ["H", "R"]]
)
def test_boxes_and_masks_turn_with_their_radiograph(folder: Path, lies: list[str] | None) -> None:
    more = {"PatientOrientation": lies} if lies else {}
    ds = dataset(scene(np.uint16), SOPClassUID=CR, Modality="CR", **more)
    written(ds, folder / "in/a.dcm")
    Image.fromarray((scene() > 99).astype(np.uint8)).save(folder / "in/m.png")

    source = told(folder, {"in/a.dcm": [["nodule", *BLOCK]]}, plan=Plan(image_px=None))
    (record,) = source.records()

    assert record.boxes() == [("nodule", around(record.decode()))]
    assert around(record.mask()[None]) == around(record.decode())


@pytest.mark.parametrize("lies", [["R", "F"], ["L", "H"], ["F", "L"], None])
def test_a_mask_that_is_a_radiograph_itself_lies_as_it_says(
    folder: Path, lies: list[str] | None
) -> None:
    way = {"PatientOrientation": ["R", "F"]}
    of_mask = {"PatientOrientation": lies} if lies else {}
    # as a viewer that honours both headers shows them, they lie on one another
    bright = (scene() > 99).astype(np.uint16)
    drawn = {"R": bright, "L": bright[::-1, ::-1], "F": bright.T[::-1]}[lies[0] if lies else "R"]
    written(dataset(scene(np.uint16), SOPClassUID=CR, Modality="CR", **way), folder / "in/a.dcm")
    written(dataset(drawn, SOPClassUID=CR, Modality="CR", **of_mask), folder / "in/m.dcm")
    (folder / "t.csv").write_text("path,mask\nin/a.dcm,in/m.dcm")
    prepare(
        Order(
            sources=(folder / "in",), dataset=folder / "set", table=folder / "t.csv",
            plan=Plan(image_px=None),
        )
    )  # fmt: skip

    (record,) = open_source(Named(name="prepared", knobs={"path": "set"}), folder).records()

    assert around(record.mask()[None]) == around(record.decode())


def test_boxes_of_a_radiograph_that_an_older_version_read_are_not_lost(folder: Path) -> None:
    ds = dataset(scene(np.uint16), SOPClassUID=CR, Modality="CR", PatientOrientation=["R", "F"])
    written(ds, folder / "in/a.dcm")
    plan = Plan(image_px=None)
    prepare(Order(sources=(folder / "in",), dataset=folder / "set", plan=plan))
    (book_file,) = folder.rglob("book.sqlite")
    with closing(sqlite3.connect(book_file)) as book, book:
        book.execute("UPDATE exams SET facts = json_remove(facts, '$.preprocessing.turned')")
        book.execute("UPDATE facts SET value = '2' WHERE name = 'label rules'")

    (record,) = told(folder, {"in/a.dcm": [["nodule", *BLOCK]]}, plan=plan).records()

    assert record.boxes() == [("nodule", around(record.decode()))]


def test_a_box_moves_with_the_air_that_is_cut_away_and_air_alone_is_none(folder: Path) -> None:
    slice_YX = np.full((128, 128), -1000, np.int16)
    slice_YX[40:100, 30:110] = 40
    slice_YX[50:60, 60:90] = 900
    ds = dataset(slice_YX, RescaleSlope=1, RescaleIntercept=0, PixelSpacing=[1, 1])
    written(ds, folder / "in/a.dcm")
    boxes = [["stone", 60, 50, 90, 60], ["air", 1, 1, 9, 9]]

    (record,) = told(folder, {"in/a.dcm": boxes}, plan=Plan(image_px=None)).records()

    image = record.decode()
    assert image.shape[1] < 128
    rows, columns = np.nonzero(image[0] > 55_000)
    assert record.boxes() == [
        ("stone", (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    ]
    report = json.loads((folder / "set/report.json").read_text())
    assert report["box_faults"] == {"box lies in the air that was cut away": 1}


def test_unsound_boxes_are_counted_and_listed_and_the_others_kept(folder: Path) -> None:
    Image.fromarray(scene()).save(folder / "in/a.png")
    Image.fromarray(scene().T).save(folder / "in/b.png")
    cell = [["cell", *BLOCK], ["cell", 5, 5, 5, 9], ["cell", 99, 1, 120, 4], ["big", 0, 0, 99, 60]]

    source = told(folder, {"in/a.png": cell, "in/b.png": []})
    first, second = sorted(source.records(), key=lambda record: record.decode().shape[1])

    assert [name for name, _ in first.boxes()] == ["cell", "big"]
    assert second.boxes() == []
    report = json.loads((folder / "set/report.json").read_text())
    assert report["exams_with_boxes"] == 2
    assert report["box_faults"] == {
        "box has no area": 1, "box lies outside the frame": 1, "box reaches beyond the frame": 1,
    }  # fmt: skip
    listed = (folder / "set.private/skipped.csv").read_text()
    assert "box has no area,1 of its boxes," in listed
    assert report["skipped"] == {}


def test_boxes_in_volumes_and_of_files_of_several_images_are_said_to_stay_out(
    folder: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 1), np.uint8)
    np.savez(folder / "in/p.npz", train_images=noise)
    deep = np.random.default_rng(0).integers(0, 255, (1, 6, 5, 4, 1), np.uint8)
    np.savez(folder / "in/v.npz", dims=3, train_images=deep)

    told(folder, {"in/p.npz": [["a", 1, 1, 4, 4]], "in/v.npz": [["a", 0, 0, 0, 4, 4, 4]]})

    assert {row["boxes"] for row in open_dataset(folder / "set", "set").rows()} == {""}
    assert json.loads((folder / "set/report.json").read_text())["box_faults"] == {
        "box of a file of several images": 2, "box in a volume": 1,
    }  # fmt: skip


def test_boxes_as_an_older_version_kept_them_are_not_taken_for_those_of_the_picture(
    folder: Path,
) -> None:
    Image.fromarray(scene()).save(folder / "in/a.png")
    source = told(folder, {"in/a.png": [["cell", *BLOCK]]})
    made = open_dataset(folder / "set", "set")
    rows = [{**row, "boxes": '[[1.0, 2.0, 3.0, 4.0, "a"]]'} for row in made.rows()]
    digest, _ = write_catalog(folder / "set", rows)
    manifest = {**made.manifest, "catalog_sha256": digest}
    (folder / "set/manifest.json").write_text(json.dumps(manifest))

    (record,) = source.records()

    with pytest.raises(UnreadableImage, match="prepare the data set again"):
        record.boxes()


def test_a_cache_of_a_prepared_data_set_has_its_boxes(folder: Path) -> None:
    Image.fromarray(scene()).save(folder / "in/a.png")

    images = images_of(
        told(folder, {"in/a.png": [["cell", *BLOCK]]}), image_px=20, cache_dir=folder / "cache"
    )

    assert images.boxes is not None
    x0, y0, x1, y1, kind = images.known("boxes", np.array([0]))[0, 0].tolist()
    # 80 x 60 fits into 20 x 15, which is put in the middle of 20 x 20
    assert [x0, y0, x1, y1] == pytest.approx([2, 5 + 2, 6, 11 + 2])
    assert kind == 0
