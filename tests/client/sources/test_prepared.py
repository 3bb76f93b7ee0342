from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from broken_files import picture
from PIL import Image

from confrere_client.data.images import images_of
from confrere_client.hospital.registry import add, registered
from confrere_client.ingest.keeping.dataset import open_dataset
from confrere_client.ingest.prepare import Order, prepare
from confrere_client.ingest.preprocess_plan import Plan
from confrere_client.source import Record, Source, UnreadableImage, open_source
from confrere_common.errors import DataError
from confrere_common.family import Named


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a data set lies: three pictures, one twice, and four volumes of (6, 5, 4)."""
    made = tmp_path_factory.mktemp("prepared")
    for number in range(3):
        picture(made / f"in/{number}.png", number)
    picture(made / "in/again.png", 2)
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 4), np.uint8)
    np.savez(made / "in/v.npz", dims=3, train_images=noise[..., None], train_patients=[1, 1, 2, 3])
    prepare(Order(sources=(made / "in",), dataset=made / "set", plan=Plan(image_px=None)))
    return made


def source(folder: Path, **knobs: Any) -> Source:
    return open_source(Named(name="prepared", knobs={"path": "set", **knobs}), folder)


def sizes(records: Sequence[Record]) -> set[tuple[int, ...]]:
    return {record.decode().shape for record in records}


def test_pictures_and_volumes_are_taken_apart(folder: Path) -> None:
    flat, deep = (source(folder, dims=dims).records() for dims in (2, 3))

    assert (len(flat), sizes(flat)) == (3, {(1, 40, 30)})
    assert (len(deep), sizes(deep)) == (4, {(1, 6, 5, 4)})
    with pytest.raises(DataError, match="dims: 2"):
        source(folder).records()


@pytest.mark.parametrize(
    ("across", "count", "size"),
    [("axial", 24, (1, 5, 4)), ("coronal", 20, (1, 6, 4)), ("sagittal", 16, (1, 6, 5))],
)
def test_a_volume_stands_as_its_slices(
    folder: Path, across: str, count: int, size: tuple[int, ...]
) -> None:
    volumes = source(folder, dims=3).records()

    slices = source(folder, dims=3, slices=across).records()

    assert (len(slices), sizes(slices)) == (count, {size})
    axis = 1 + ["axial", "coronal", "sagittal"].index(across)
    assert (slices[2].decode() == volumes[0].decode().take(2, axis)).all()
    assert slices[0].patient == slices[1].patient == volumes[0].patient


def test_every_second_slice_is_half_of_them(folder: Path) -> None:
    assert len(source(folder, dims=3, slices="axial", slice_step=2).records()) == 12


def test_duplicates_stay_out_unless_wanted(folder: Path) -> None:
    assert len(source(folder, dims=2, leave_out=[]).records()) == 4


def test_who_is_not_known_is_not_taken_for_known(folder: Path) -> None:
    known = [record.patient_known for record in source(folder, dims=3).records()]
    unknown = [record.patient_known for record in source(folder, dims=2).records()]

    assert all(known)
    assert not any(unknown)


def test_the_fingerprint_changes_with_what_is_asked(folder: Path) -> None:
    def prints(**knobs: Any) -> bytes:
        return b"".join(source(folder, **knobs).fingerprint())

    assert prints(dims=2) == prints(dims=2)
    assert prints(dims=2) != prints(dims=3)


def test_a_run_gets_its_images_by_way_of_the_cache(folder: Path, tmp_path: Path) -> None:
    images = images_of(source(folder, dims=3), image_px=6, cache_dir=tmp_path)

    assert images.pixels.shape == (4, 1, 6, 6, 6)
    assert images.catalog.patient_count == 3


def test_it_can_be_registered_by_its_folder_alone(folder: Path, tmp_path: Path) -> None:
    entry = add(tmp_path, "scans", folder / "set", knobs={"dims": 2})

    assert (entry.source.name, entry.images, entry.unknown_patients) == ("prepared", 3, 3)
    assert registered(tmp_path)["scans"] == entry


def test_a_data_set_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()

    with pytest.raises(DataError, match="not finished"):
        source(tmp_path).records()


def test_pixels_cut_short_are_found_when_they_are_read(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "set", tmp_path / "set")
    for path in (tmp_path / "set/pixels").iterdir():
        path.write_bytes(path.read_bytes()[:-1000])

    records = source(tmp_path, dims=2, leave_out=[]).records()

    with pytest.raises(UnreadableImage, match="cut short"):
        [record.decode() for record in [*records, *source(tmp_path, dims=3).records()]]
    assert open_dataset(tmp_path / "set", "set")


def test_masks_come_with_their_images_and_slices_with_theirs(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (6, 5, 4), np.uint8)
    for name, array in (("image", volume), ("mask", (volume > 99).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    table = tmp_path / "table.csv"
    table.write_text("path,mask\nimage.nii,mask.nii\n")
    plan = Plan(image_px=None)
    prepare(Order(sources=(tmp_path,), dataset=tmp_path / "set", plan=plan, table=table))

    (whole,) = source(tmp_path).records()
    slices = source(tmp_path, slices="axial").records()

    assert whole.mask is not None
    assert whole.mask().shape == whole.decode().shape[1:]
    assert 0 < whole.mask().mean() < 1
    assert all(
        (one.mask() == layer).all()
        for one, layer in zip(slices, whole.mask(), strict=True)
        if one.mask is not None
    )
    assert {one.mask is None for one in slices} == {False}


def test_spacing_is_that_of_what_is_stored_and_of_a_slice_its_own(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (8, 12, 10), np.uint8)
    nib.save(nib.Nifti1Image(volume, np.diag([1, 2, 3, 1])), tmp_path / "image.nii")
    plan = Plan(image_px=None, spacing_mm=(6, 2, 1))
    prepare(Order(sources=(tmp_path / "image.nii",), dataset=tmp_path / "set", plan=plan))

    (whole,) = source(tmp_path).records()
    slices = {
        across: source(tmp_path, slices=across).records()[0].spacing_mm
        for across in ("axial", "coronal", "sagittal")
    }

    assert whole.decode().shape == (1, 5, 12, 8)
    assert whole.spacing_mm == pytest.approx((6, 2, 1))
    assert slices["axial"] == whole.spacing_mm[1:]
    assert slices["coronal"] == whole.spacing_mm[::2]
    assert slices["sagittal"] == whole.spacing_mm[:2]


def test_a_volume_that_does_not_tell_its_spacing_has_none(folder: Path) -> None:
    assert {record.spacing_mm for record in source(folder, dims=3).records()} == {()}
    assert all(record.mapped for record in source(folder, dims=3).records())


def test_a_slice_is_cut_where_it_lies(folder: Path, tmp_path: Path) -> None:
    axial = source(folder, dims=3, slices="axial")

    images = images_of(axial, image_px=64, crop_px=(3,), cache_dir=tmp_path)

    due = axial.records()[7].decode()[:, 1:4, 0:3]
    assert np.array_equal(images.batch(np.array([7]))[0].numpy(), due)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("patients", "told"), [(4, False), (5, True)])
def test_the_mean_stain_of_few_patients_is_told_to_no_run(
    tmp_path: Path, patients: int, told: bool
) -> None:
    rows = ["path,patient"]
    for number in range(2 * patients):
        rng = np.random.default_rng(number)
        tissue = rng.normal([190, 110, 170], 25, (24, 24, 3)).clip(0, 255).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(tissue).save(tmp_path / f"in/{number}.png")
        rows.append(f"{number}.png,P-{number % patients}")
    (tmp_path / "in/t.csv").write_text("\n".join(rows))
    plan = Plan(modality="histology")
    order = {"sources": (tmp_path / "in",), "dataset": tmp_path / "set", "plan": plan}
    prepare(Order(**order, table=tmp_path / "in/t.csv"))

    preparation = source(tmp_path).preparation

    assert open_dataset(tmp_path / "set", "set").manifest["stain"]["patients"] == patients
    assert preparation is not None
    assert ("stain" in preparation) == told
