import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from confrere_client.ingest.finding.labels import wanted_by
from confrere_client.ingest.keeping.dataset import Dataset, open_dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Shards
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess import Config
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.ingest.working.masks import ELSEWHERE, LABELS, is_label_map


@pytest.mark.parametrize(
    ("labels", "image"),
    [
        ("/d/labelsTr/a_01.nii.gz", "/d/imagesTr/a_01_0000.nii.gz"),
        ("/d/labels/a.nii.gz", "/d/images/a.nii.gz"),
        ("/d/masks/deep/a_segmentation.png", "/d/images/deep/a.jpg"),
        ("/d/x/BraTS_7_seg.nii.gz", "/d/x/BraTS_7_t1ce.nii.gz"),
        ("/d/x/a.seg.nrrd", "/d/x/a.nrrd"),
        (
            "/b/derivatives/p/sub-1/anat/sub-1_space-orig_desc-x_dseg.nii.gz",
            "/b/sub-1/anat/sub-1_T1w.nii.gz",
        ),
        ("/d/x/a_mask.mha", "/d/x/a.mha"),
    ],
)
def test_a_label_map_finds_its_image_by_how_both_are_called(labels: str, image: str) -> None:
    assert any(wanted.fits(image) for wanted in wanted_by(labels))


@pytest.mark.parametrize(
    ("labels", "other"),
    [
        ("/d/labelsTr/a_1.nii.gz", "/d/imagesTr/a_10.nii.gz"),
        ("/d/labelsTr/a.nii.gz", "/d/imagesTs/a.nii.gz"),
        ("/d/x/a_seg.nii.gz", "/d/x/a_mask.nii.gz"),
        ("/d/x/a_seg.nii.gz", "/d/y/a.nii.gz"),
        ("/d/x/a_seg.nii.gz", "/d/x/ab.nii.gz"),
        ("/d/x/a.nii.gz", "/d/x/a.nii.gz"),
        ("/d/x/unmask.png", "/d/x/un.png"),
    ],
)
def test_what_is_called_otherwise_is_no_image_of_a_label_map(labels: str, other: str) -> None:
    assert not any(wanted.fits(other) for wanted in wanted_by(labels))


def test_labels_are_few_whole_numbers_in_flat_areas() -> None:
    rng = np.random.default_rng(0)
    organs = np.zeros((24, 24, 24), np.float32)
    organs[4:12, 4:14, 4:16], organs[12:20, 4:14, 4:16] = 1, 7

    assert is_label_map(organs)
    assert not is_label_map(organs + rng.integers(0, 9, organs.shape))
    assert not is_label_map(organs + 0.5)
    assert not is_label_map(organs - 1)
    assert not is_label_map(np.zeros_like(organs))


def volume(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def scan(path: Path, seed: int = 0) -> None:
    volume(path, np.random.default_rng(seed).normal(100, 30, (20, 18, 16)).astype(np.float32))


def organ(path: Path, side: int = 20) -> None:
    labels = np.zeros((side, 18, 16), np.uint8)
    labels[5:15, 5:12, 4:12] = 2
    volume(path, labels)


def prepared(
    folder: Path, config: Config | None = None, table: Path | None = None
) -> tuple[Dataset, dict[str, int]]:
    prepare(
        Order(
            sources=(folder / "in",),
            dataset=folder / "set",
            plan=Plan(modality="mr", image_px=None),
            shaping=config or Config(crop_foreground=False),
            table=table,
        )
    )
    report = json.loads((folder / "set/report.json").read_text())
    return open_dataset(folder / "set", "set"), report


def test_label_maps_beside_volumes_become_their_masks(tmp_path: Path) -> None:
    for number in range(2):
        scan(tmp_path / f"in/imagesTr/h_{number}_0000.nii.gz", number)
        organ(tmp_path / f"in/labelsTr/h_{number}.nii.gz")
    dataset, report = prepared(tmp_path)
    shards = Shards(dataset.folder / FOLDER)

    rows = list(dataset.rows())

    assert len(rows) == report["exams_with_masks"] == 2
    for row in rows:
        mask = shards.image(place_of(row["mask"]), tuple(row["shape"][1:]), row["mask"]["dtype"])
        assert np.unique(mask).tolist() == [0, 2]
        assert np.count_nonzero(mask) == 10 * 7 * 8


def test_a_label_map_of_no_image_is_skipped_whatever_it_is_called(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    organ(tmp_path / "in/lonely_seg.nii.gz")
    organ(tmp_path / "in/nameless.nii.gz")

    dataset, report = prepared(tmp_path)

    assert len(list(dataset.rows())) == 1
    assert report["skipped"] == {LABELS: 2}
    assert report["exams_with_masks"] == 0


def test_an_image_in_a_folder_of_labels_stays_an_image(tmp_path: Path) -> None:
    scan(tmp_path / "in/images/a.nii.gz", 1)
    scan(tmp_path / "in/labels/a.nii.gz", 2)

    dataset, report = prepared(tmp_path)

    assert len(list(dataset.rows())) == 2
    assert report["skipped"] == {}


def test_a_label_map_on_another_grid_is_said_and_is_no_image(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    organ(tmp_path / "in/a_seg.nii.gz", side=22)

    (row,) = prepared(tmp_path)[0].rows()

    assert row["mask"] is None
    assert row["warnings"] == ["mask does not fit its image"]


@pytest.mark.parametrize(
    ("step", "moved", "fits"),
    [
        ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), True),
        ((1.0, 1.0, 1.005), (0.0, 0.4, 0.0), True),  # headers round
        ((1.0, 1.0, 2.0), (0.0, 0.0, 0.0), False),
        ((1.0, 1.0, 1.0), (0.0, 0.0, 3.0), False),
    ],
)
def test_a_label_map_of_another_spacing_or_place_is_no_mask(
    step: tuple[float, ...], moved: tuple[float, ...], fits: bool, tmp_path: Path
) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    other = np.diag([*step, 1.0])
    other[:3, 3] = moved
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[5:15, 5:12, 4:12] = 2
    values = np.random.default_rng(0).normal(100, 30, labels.shape).astype(np.float32)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in/a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, other), tmp_path / "in/a_seg.nii.gz")

    (row,) = prepared(tmp_path)[0].rows()

    assert (row["mask"] is not None) == fits
    assert row["warnings"] == ([] if fits else [ELSEWHERE])


def test_a_label_map_stored_the_other_way_round_lies_where_its_image_does(tmp_path: Path) -> None:
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[5:15, 5:12, 4:12] = 2
    labels[0, 0, 0] = 1
    values = labels * 100 + np.random.default_rng(0).normal(0, 9, labels.shape)
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    turned[:3, 3] = (19, 0, 15)
    (tmp_path / "in").mkdir()
    scan = nibabel.Nifti1Image(values.astype(np.float32), np.eye(4))
    nibabel.save(scan, tmp_path / "in/a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels[::-1, :, ::-1], turned), tmp_path / "in/a_seg.nii.gz")

    dataset, _ = prepared(tmp_path)
    (row,) = dataset.rows()

    assert row["warnings"] == []
    shards = Shards(dataset.folder / FOLDER)
    mask = shards.image(place_of(row["mask"]), tuple(row["shape"][1:]), row["mask"]["dtype"])
    assert mask[0, 0, 0] == 1


def test_a_catalog_that_comes_later_has_its_mask_taken_with_a_warning(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[5:15, 5:12, 4:12] = 2
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2, 2, 2, 1])), tmp_path / "in/a_seg.nii.gz")
    (alone,) = prepared(tmp_path)[0].rows()
    table = tmp_path / "in/t.csv"
    table.write_text("path,mask\na.nii.gz,a_seg.nii.gz\n")

    (told,) = prepared(tmp_path, table=table)[0].rows()

    assert alone["mask"] is None
    assert told["mask"] is not None
    assert alone["warnings"] == told["warnings"] == [ELSEWHERE]


@pytest.mark.parametrize(
    "former",
    [
        "UPDATE exams SET facts = json_remove(facts, '$.mask')",  # it did not fit then
        "UPDATE looked SET labels = ''",  # it was no label map then
    ],
)
def test_what_older_rules_said_of_a_label_map_is_judged_anew(tmp_path: Path, former: str) -> None:
    scan(tmp_path / "in/images/a.nii.gz")
    organ(tmp_path / "in/labels/a.nii.gz")
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "in/photo.png")
    again = Order(
        sources=(tmp_path / "in",),
        dataset=tmp_path / "set",
        plan=Plan(modality="mr", image_px=None),
        shaping=Config(crop_foreground=False),
    )
    prepare(again)
    with closing(sqlite3.connect(again.private / "book.sqlite")) as book, book:
        book.execute(former)
        book.execute("UPDATE facts SET value = '1' WHERE name = 'label rules'")

    assert prepare(again).read == 1  # the scan; no rule of labels concerns the photo
    assert prepare(again).read == 0
    rows = open_dataset(again.dataset, "set").rows(["mask"])
    assert sum(row["mask"] is not None for row in rows) == 1


def test_one_image_has_one_mask_and_another_is_told(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    organ(tmp_path / "in/a_seg.nii.gz")
    organ(tmp_path / "in/a_mask.nii.gz")

    dataset, report = prepared(tmp_path)

    assert len(list(dataset.rows())) == report["exams_with_masks"] == 1
    assert report["skipped"] == {"another label map of its image": 1}


def test_a_label_map_that_comes_later_goes_to_its_image(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    prepared(tmp_path)
    organ(tmp_path / "in/a_seg.nii.gz")

    (row,) = prepared(tmp_path)[0].rows()

    assert row["mask"] is not None


def test_pictures_have_label_maps_too(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    drawn = np.zeros((40, 60), np.uint8)
    drawn[10:20, 10:30] = 255
    Image.fromarray(noise).save(tmp_path / "in/images/ISIC_1.jpg")
    Image.fromarray(noise[::-1]).save(tmp_path / "in/images/ISIC_2.jpg")
    Image.fromarray(drawn).save(tmp_path / "in/masks/ISIC_1_segmentation.png")
    Image.fromarray(np.stack([drawn, drawn * 0, drawn], 2)).save(tmp_path / "in/masks/ISIC_2.png")

    dataset, report = prepared(tmp_path)

    assert sorted(row["mask"] is not None for row in dataset.rows()) == [False, True]
    assert report["skipped"] == {"label map in colour": 1}


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(noise).save(path)


def drawing(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((16, 16), np.uint8)
    values[2 : 2 + rows, 3:9] = 1
    Image.fromarray(values).save(path)


def test_a_label_map_called_as_an_image_goes_before_one_that_serves_several(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("a", "a_t2")):
        picture(tmp_path / f"in/images/{name}.png", number)
        drawing(tmp_path / f"in/masks/{name}.png", 2 + 3 * number)
    dataset, _ = prepared(tmp_path)
    shards = Shards(dataset.folder / FOLDER)

    masks = [
        shards.image(place_of(row["mask"]), tuple(row["shape"][1:]), row["mask"]["dtype"])
        for row in dataset.rows()
    ]

    assert sorted(int(mask.sum()) for mask in masks) == [2 * 6, 5 * 6]


def test_a_short_name_among_many_that_begin_so_finds_its_image(tmp_path: Path) -> None:
    for number in (1, *range(100, 170)):
        picture(tmp_path / f"in/images/{number}_0000.png", number)
    drawing(tmp_path / "in/labels/1.png", 3)

    _, report = prepared(tmp_path)

    assert report["exams_with_masks"] == 1


def test_who_wants_label_maps_as_images_has_them(tmp_path: Path) -> None:
    scan(tmp_path / "in/a.nii.gz")
    organ(tmp_path / "in/a_seg.nii.gz")

    dataset, report = prepared(tmp_path, Config(crop_foreground=False, label_maps=False))

    assert len(list(dataset.rows())) == 2
    assert report["skipped"] == {}
