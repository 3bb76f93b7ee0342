"""What a site learns from: nested shares of labels, the run's classes, rare ones more often."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_runs import tiny_run, tuning

from confrere_client.data.boxes import Boxes
from confrere_client.data.catalog import catalog_of
from confrere_client.data.images import Images
from confrere_client.data.masks import Masks
from confrere_client.finetune.lesson import (
    Lesson,
    classes_in,
    lesson_of,
    must_be_known,
    parts,
    site_lesson,
    taught,
)
from confrere_client.schedule import weighed_batches
from confrere_client.source import Record
from confrere_common.errors import DataError
from confrere_common.family import Named
from confrere_common.finetune import Finetune


def images_of(labels: Sequence[str], each: int = 1) -> Images:
    """Return images of which *each* in a row are one patient's."""
    pixels = np.zeros((len(labels), 1, 8, 8), np.uint8)
    records = [
        Record(name=f"i{n}", decode=lambda: pixels[0], patient=f"p{n // each}", label=label)
        for n, label in enumerate(labels)
    ]
    return Images(pixels=pixels, catalog=catalog_of(records), skipped=(), digest="")


def lesson(labels: Sequence[str], **changes: Any) -> Lesson:
    finetune = Finetune(classes=("a", "b", "c"), **changes)
    return Lesson(images=images_of(labels), rows=np.arange(len(labels)), finetune=finetune)


def learned(images: Images, labels: float | str) -> NDArray[np.int64]:
    return taught(images, np.arange(len(images)), Finetune(labels=labels), seed=3)


def test_fewer_labels_are_among_more_and_no_class_is_left_out() -> None:
    images = images_of(["a"] * 60 + ["b"] * 20 + ["c"] * 4, each=2)

    some = [set(learned(images, share)) for share in (0.01, 0.1, 0.5, 1.0)]

    assert all(few <= many for few, many in pairwise(some))
    assert {images.catalog.labels[row] for row in some[0]} == {0, 1, 2}
    assert len(some[3]) == 84


def test_a_patient_s_images_stay_together() -> None:
    images = images_of(["a"] * 12 + ["b"] * 12, each=3)

    rows = learned(images, 0.5)

    patients = images.catalog.patients
    assert np.isin(patients, patients[rows]).sum() == len(rows) == 12


def test_so_many_patients_of_each_class_or_all_there_are() -> None:
    rows = learned(images_of(["a"] * 9 + ["b"] * 2), "4 per class")

    assert (rows < 9).sum() == 4
    assert (rows >= 9).sum() == 2


def test_images_without_a_label_teach_nothing() -> None:
    assert learned(images_of(["a", "", "b"]), 1.0).tolist() == [0, 2]


def test_classes_are_numbered_as_the_run_names_them() -> None:
    found = lesson(["c", "", "a"])

    assert found.known("label", np.array([0, 1, 2])).tolist() == [2, -1, 0]
    assert found.counts.tolist() == [1, 0, 1]


def test_a_label_that_the_run_does_not_know_is_told() -> None:
    with pytest.raises(DataError, match=r"1 classes of the images are none of the run's.*'z'"):
        _ = lesson(["a", "z"]).labels


def test_the_prior_leaves_out_what_a_site_lacks_unless_it_is_to_be_kept() -> None:
    labels = ["a", "a", "b"]

    masked, kept = lesson(labels), lesson(labels, missing="keep")

    assert np.exp(masked.prior).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert np.isfinite(kept.prior).all()


@pytest.mark.parametrize(("sampling", "share"), [("sqrt", 3 / 4), ("balanced", 1 / 2)])
def test_rare_classes_are_drawn_more_often(sampling: str, share: float) -> None:
    chances = lesson(["a"] * 90 + ["b"] * 10, sampling=sampling).chances

    assert chances is not None
    assert chances.sum() == pytest.approx(1)
    assert chances[:90].sum() == pytest.approx(share)
    picked = np.concatenate(list(weighed_batches(chances, 20, 50, np.random.default_rng(0))))
    assert np.mean(picked < 90) == pytest.approx(share, abs=0.05)


def test_plain_sampling_draws_as_ever() -> None:
    assert lesson(["a", "b"]).chances is None


def test_findings_are_read_from_a_label_that_names_several() -> None:
    several = Named(name="classification", knobs={"kind": "multilabel"})
    found = lesson(["a|c", "none", "", "b"], task=several)

    rows = found.known("findings", np.arange(4)).numpy()

    assert rows[[0, 1, 3]].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert np.isnan(rows[2]).all()
    assert classes_in(found.images, found.finetune) == ("a", "b", "c")
    assert parts(" a | none |b") == ["a", "b"]


def test_a_lesson_gives_the_pixels_of_its_rows() -> None:
    found = replace(lesson(["a", "b", "c"]), rows=np.array([2, 0]))

    assert len(found) == 2
    assert found.batch(np.array([0])).shape == (1, 1, 8, 8)
    assert found.known("label", np.array([0, 1])).tolist() == [2, 0]


def test_a_hospital_learns_from_its_marked_images_alone() -> None:
    images = images_of(["a", "", "b"])
    run = tuning(classes=["a", "b"])

    found, rows = site_lesson(run, images)

    assert rows.tolist() == [0, 2]
    assert isinstance(found, Lesson)
    assert len(found) == 2
    with pytest.raises(DataError, match="no image here is marked for the task 'classification'"):
        site_lesson(run, images_of(["", ""]))


def test_a_run_that_pre_trains_takes_every_image() -> None:
    images = images_of(["a", ""])

    found, rows = site_lesson(tiny_run(), images)

    assert found is images
    assert rows.tolist() == [0, 1]
    assert len(lesson_of(tiny_run(), images, np.array([1]))) == 1


def test_what_is_normal_teaches_alone_but_all_serve_to_judge() -> None:
    images = images_of(["a", "b", "a"])
    finetune = Finetune(task=Named(name="anomaly", knobs={"normal": "a"}))
    rows = np.arange(3)

    assert taught(images, rows, finetune, 0).tolist() == [0, 2]
    assert taught(images, rows, finetune, 0, judging=True).tolist() == [0, 1, 2]


def test_at_a_site_without_a_normal_image_nothing_else_passes_for_normal() -> None:
    task = Named(name="anomaly", knobs={"normal": "a"})
    finetune = Finetune(task=task, classes=("a", "b", "c"))

    for labels in (["b", "b", "c"], ["", "", ""]):
        assert taught(images_of(labels), np.arange(3), finetune, 0).tolist() == []


def test_a_class_that_the_run_does_not_name_is_told_before_any_round(tmp_path: Path) -> None:
    masks = [np.zeros((8, 8), np.uint8) for _ in range(40)]
    masks[-1][0, 0] = 3
    pixels = np.zeros((40, 1, 8, 8), np.uint8)
    records = [
        Record(
            name=f"i{n}", decode=lambda n=n: pixels[n], patient=f"p{n}",
            label="z" if n == 39 else "a",
            mask=lambda n=n: masks[n], boxes=lambda n=n: [("z" if n == 39 else "a", (1, 1, 4, 4))],
        )
        for n in range(40)
    ]  # fmt: skip
    folders = [tmp_path / name for name in ("masks", "boxes")]
    for folder in folders:
        folder.mkdir()
    images = Images(
        pixels=pixels, catalog=catalog_of(records), skipped=(), digest="",
        masks=Masks(records=records, home=folders[0], shape=(8, 8)),
        boxes=Boxes(records=records, home=folders[1], shape=(8, 8)),
    )  # fmt: skip
    said = {
        "segmentation": "a mask holds class 3, and finetune.classes names 1",
        "detection": "1 classes of the images are none of the run's",
        "classification": "1 classes of the images are none of the run's",
        "retrieval": "1 classes of the images are none of the run's",
    }

    for task, text in said.items():
        finetune = Finetune(task=Named(name=task, knobs={}), classes=("a",))
        with pytest.raises(DataError, match=text):
            must_be_known(images, finetune)


def test_a_box_list_without_a_box_and_a_mask_of_nothing_still_teach(tmp_path: Path) -> None:
    pixels = np.zeros((2, 1, 8, 8), np.uint8)
    records = [
        Record(
            name=f"i{n}", decode=lambda: pixels[0], patient=f"p{n}",
            mask=lambda: np.zeros((8, 8)), boxes=list,
        )
        for n in range(2)
    ]  # fmt: skip
    images = Images(
        pixels=pixels, catalog=catalog_of(records), skipped=(), digest="",
        masks=Masks(records=records, home=tmp_path, shape=(8, 8)),
        boxes=Boxes(records=records, home=tmp_path, shape=(8, 8)),
    )  # fmt: skip

    for task in ("segmentation", "detection"):
        finetune = Finetune(task=Named(name=task, knobs={}), classes=("a",))
        must_be_known(images, finetune)
        assert taught(images, np.arange(2), finetune, 0).tolist() == [0, 1]
