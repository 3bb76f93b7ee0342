"""Whether a mask is its image's, by what the headers of both say, and by what they do not say."""

from pathlib import Path
from typing import Any

import dicom_files as made
import nibabel
import numpy as np
import pytest
import SimpleITK

from confrere_client.ingest.reader import READERS, Exam
from confrere_client.ingest.working.masks import ELSEWHERE, MISFIT, Mask, fitted, read_mask

SPOT_ZYX = np.zeros((3, 4, 5), np.uint8)
SPOT_ZYX[0, 0, :2] = 1  # no two axes run alike, nor the other way round
PLACED = np.array([[0.5, 0, 0, -10], [0, 0.5, 0, 20], [0, 0, 2.0, 30], [0, 0, 0, 1]])

META = b"ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\n"
NRRD = b"NRRD0005\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n"
STEPS = b"ElementSpacing = 0.5 0.5 2\n"
AXES = b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
SPACE = b"space: left-posterior-superior\n"
DIRECTIONS = b"space directions: (0.5,0,0) (0,0.5,0) (0,0,2)\n"


KINDS = {".nii": "nifti", ".dcm": "dicom"}


def headed(folder: Path, head: bytes) -> Path:
    """Write the spot below a header of NRRD or MetaImage."""
    nrrd = head.startswith(b"NRRD")
    file = folder / ("spot.nrrd" if nrrd else "spot.mha")
    end = b"\n" if nrrd else b"ElementDataFile = LOCAL\n"
    file.write_bytes(head + end + SPOT_ZYX.tobytes())
    return file


def headless(folder: Path, **header: Any) -> Path:
    """Write the spot as a NIfTI of no place."""
    image = nibabel.Nifti1Image(SPOT_ZYX.T, None)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, folder / "spot.nii")
    return folder / "spot.nii"


def placed(file: Path) -> Path:
    """Write the spot as an image of a known place."""
    if file.suffix == ".nii":
        nibabel.save(nibabel.Nifti1Image(SPOT_ZYX.T.astype(np.float32), PLACED), file)
        return file
    image = SimpleITK.GetImageFromArray(SPOT_ZYX.astype(np.float32))
    image.SetSpacing((0.5, 0.5, 2))
    image.SetOrigin((-10, 20, 30))
    SimpleITK.WriteImage(image, str(file))
    return file


def exam_of(file: Path) -> Exam:
    reader = READERS.member(KINDS.get(file.suffix, "volume"))()
    (exam,) = reader.load(reader.index(file), {})
    return exam


def mask_of(file: Path, *, named: bool = False) -> Mask:
    reader = READERS.member(KINDS.get(file.suffix, "volume"))()
    return read_mask(reader, reader.index(file), {}, named=named)


@pytest.mark.parametrize("image", ["a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize(
    "head",
    [
        NRRD,
        NRRD + b"spacings: 0.5 0.5 2\n",
        NRRD + b"spacings: nan nan nan\n",
        META,
        META + STEPS,
        META + STEPS + b"Offset = 7 7 7\n",  # along which axes?
        b"",
    ],
)
def test_what_the_file_of_a_mask_does_not_say_is_not_held_against_it(
    image: str, head: bytes, tmp_path: Path
) -> None:
    exam = exam_of(placed(tmp_path / image))
    mask = mask_of(headed(tmp_path, head) if head else headless(tmp_path))

    labels, fault = fitted(mask, exam)

    assert fault == ""
    assert np.array_equal(labels, exam.pixels[0])  # it is not mirrored either


@pytest.mark.parametrize(
    "head",
    [
        NRRD + b"spacings: 1 1 1\n",
        NRRD + SPACE + DIRECTIONS + b"space origin: (0,0,0)\n",
        META + b"ElementSpacing = 1 1 1\n",
        META + b"ElementSize = 1 1 1\n",
        META + STEPS + AXES + b"Offset = 0 0 0\n",
        META + STEPS + AXES + b"Position = 0 0 0\n",
    ],
)
def test_what_a_header_says_is_held_against_a_mask_be_it_what_readers_assume(
    head: bytes, tmp_path: Path
) -> None:
    exam = exam_of(placed(tmp_path / "a.mha"))

    assert fitted(mask_of(headed(tmp_path, head)), exam) == (None, ELSEWHERE)


@pytest.mark.parametrize("header", [{"xyzt_units": 2}, {"pixdim": [1, 3, 3, 3, 0, 0, 0, 0]}])
def test_a_nifti_of_no_place_may_still_say_its_spacing(
    header: dict[str, Any], tmp_path: Path
) -> None:
    exam = exam_of(placed(tmp_path / "a.nii"))

    assert fitted(mask_of(headless(tmp_path, **header)), exam) == (None, ELSEWHERE)


def test_an_image_that_says_nothing_has_a_mask_that_is_stored_as_it_is(tmp_path: Path) -> None:
    exam, mask = exam_of(headed(tmp_path, NRRD)), mask_of(placed(tmp_path / "a.nii"))

    labels, fault = fitted(mask, exam)

    assert exam.spacing_mm == (1, 1, 1)  # as ever, for what is resampled
    assert fault == ""
    assert np.array_equal(labels, exam.pixels[0])


@pytest.mark.parametrize(("told", "fault"), [(False, ""), (True, ELSEWHERE)])
def test_frames_without_a_spacing_say_nothing_of_it(told: bool, fault: str, tmp_path: Path) -> None:
    ds = made.dataset(SPOT_ZYX.astype(np.int16), SOPClassUID=made.ENHANCED_CT)
    ds.PerFrameFunctionalGroupsSequence = made.placed_frames([0, 2, 4])
    for frame in ds.PerFrameFunctionalGroupsSequence if not told else ():
        del frame.PixelMeasuresSequence
    exam = exam_of(made.written(ds, tmp_path / "a.dcm"))

    assert exam.spacing_mm == (2, 1, 1)
    assert fitted(mask_of(placed(tmp_path / "b.nii")), exam)[1] == fault


def test_a_mask_that_a_catalog_names_is_kept_elsewhere_but_not_of_another_shape(
    tmp_path: Path,
) -> None:
    exam = exam_of(placed(tmp_path / "a.nii"))
    same, less = tmp_path / "same.nii", tmp_path / "less.nii"
    nibabel.save(nibabel.Nifti1Image(SPOT_ZYX.T, np.eye(4)), same)
    nibabel.save(nibabel.Nifti1Image(SPOT_ZYX.T[1:], np.eye(4)), less)

    labels, fault = fitted(mask_of(same, named=True), exam)

    assert fault == ELSEWHERE
    assert np.array_equal(labels, exam.pixels[0])
    assert fitted(mask_of(same), exam) == (None, ELSEWHERE)
    assert fitted(mask_of(less, named=True), exam) == (None, MISFIT)
