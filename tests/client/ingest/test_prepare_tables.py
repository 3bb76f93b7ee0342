"""What a table or an archive of arrays says of images is kept: patients, labels, masks."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from broken_files import picture, png, zipped
from PIL import Image
from preparing import order, parent, prepared

from confrere_client.ingest.keeping.dataset import Dataset, open_dataset, place_of
from confrere_client.ingest.keeping.shards import FOLDER, Shards
from confrere_client.ingest.prepare import prepare
from confrere_client.ingest.preprocess_plan import Plan


def test_a_table_tells_patient_site_split_label_and_its_masks_are_no_exams(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"in/images/{number}.png", number)
        picture(tmp_path / f"in/masks/{number}.png", 10 + number)
    rows = [
        f'images/{n}.png,P-{n // 2},north,train,nv,masks/{n}.png,"[[1, 2, 3, 4, ""a""]]"'
        for n in range(3)
    ]
    table = tmp_path / "in/told.csv"
    table.write_text(
        "\n".join(["file,patient,site,split,label,mask,boxes", *rows, "no.png,x,,,,,"])
    )

    done, dataset = prepared(tmp_path, table=table, table_knobs={"path_column": "file"})
    found = list(dataset.rows())

    assert done.lost_rows == 1
    assert len(found) == 3
    assert len({row["patient"] for row in found}) == 2
    assert all(row["patient_known"] for row in found)
    assert {(row["site"], row["split"], row["label"]) for row in found} == {
        ("north", "train", "nv")
    }
    assert {row["boxes"] for row in found} == {'[["a", 1.0, 2.0, 3.0, 4.0]]'}


def test_a_mask_goes_the_way_of_its_image_and_a_misfit_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 1, (80, 60))
    picture(tmp_path / "in/b.png", 2, (80, 60))
    labels = np.zeros((80, 60), np.uint8)
    labels[:40, :30] = 7
    Image.fromarray(labels).save(tmp_path / "in/a_mask.png")
    Image.fromarray(labels[:50]).save(tmp_path / "in/b_mask.png")
    table = tmp_path / "in/t.csv"
    table.write_text("path,label,mask\na.png,good,a_mask.png\nb.png,bad,b_mask.png\n")

    _, dataset = prepared(tmp_path, plan=Plan(image_px=40), table=table)
    rows = {row["label"]: row for row in dataset.rows()}
    mask = mask_of(dataset, rows["good"])

    assert mask.shape == (40, 30)
    assert (mask[:20, :15] == 7).all()
    assert np.count_nonzero(mask) == 20 * 15
    assert rows["bad"]["mask"] is None
    assert rows["bad"]["warnings"] == ["mask does not fit its image"]


def mask_of(dataset: Dataset, row: dict[str, Any]) -> Any:
    shards = Shards(dataset.folder / FOLDER)
    return shards.image(place_of(row["mask"]), tuple(row["shape"][1:]), row["mask"]["dtype"])


def test_masks_in_an_archive_are_unpacked_again_with_their_images(tmp_path: Path) -> None:
    members = {"a.png": png(1), "m.png": png(2)}
    archive = zipped(parent(tmp_path / "in") / "a.zip", members)
    prepared(tmp_path)
    table = tmp_path / "in/t.csv"
    table.write_text("path,mask\na.zip!/a.png,a.zip!/m.png\n")

    done, dataset = prepared(tmp_path, table=table)
    (row,) = dataset.rows()

    assert archive.is_file()
    assert done.read == 1
    assert mask_of(dataset, row).shape == (40, 30)


def test_patients_are_keys_under_the_site_s_secret(tmp_path: Path) -> None:
    picture(tmp_path / "in/1.png", 1)
    (tmp_path / "in/t.csv").write_text("path,patient\n1.png,Jane Doe\n")

    def patient(out: str, secret: Path) -> str:
        table = tmp_path / "in/t.csv"
        prepare(order(tmp_path, dataset=tmp_path / out, table=table, secret=secret))
        (row,) = open_dataset(tmp_path / out, out).rows()
        return str(row["patient"])

    one = patient("a", tmp_path / "site/keys/patient.key")
    same = patient("b", tmp_path / "site/keys/patient.key")
    other = patient("c", tmp_path / "elsewhere.key")

    assert one == same != other
    assert (tmp_path / "site/keys/patient.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "a.private/patient.key").exists()


def test_arrays_keep_labels_and_splits_and_each_image_stands_for_itself(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 28, 28), np.uint8)
    path = parent(tmp_path / "in") / "a.npz"
    np.savez(path, train_images=noise[:4], train_labels=[0, 1, 1, 0], test_images=noise[4:])

    _, dataset = prepared(tmp_path)
    rows = list(dataset.rows())

    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", "0"): 2,
        ("train", "1"): 2,
        ("test", ""): 2,
    }
    assert len({row["patient"] for row in rows}) == 6
    assert not any(row["patient_known"] for row in rows)
